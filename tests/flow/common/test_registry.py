"""Registries: own things and those of other packages by name, and a sentence for every name that is none."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import pytest

from flexcim.plugins import PluginError
from flexcim_flow.choice.selector import SELECTORS, Selector
from flexcim_flow.common.registry import Registry, UnknownNameError
from flexcim_flow.layer.rule import SCORES, ScoreRule
from tests.support.plugins import install_plugin

NUMBERS = Registry(
    "number",
    Fraction,
    "flexcim.test-numbers",
    {"half": f"{__name__}:HALF", "third": f"{__name__}:THIRD"},
    {"0.5": "half"},
)
HALF, THIRD = Fraction(1, 2), Fraction(1, 3)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed packages."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_own_things_come_first_and_those_of_others_after_them(site):
    source = "from fractions import Fraction\nFIFTH = Fraction(1, 5)\n"
    install_plugin(site, "acme_numbers", "flexcim.test-numbers", {"fifth": "acme_numbers:FIFTH"}, source)
    assert list(NUMBERS) == ["half", "third", "fifth"]
    assert [NUMBERS[name] for name in NUMBERS] == [HALF, THIRD, Fraction(1, 5)]
    assert NUMBERS.check("fifth") == "fifth"


@pytest.mark.parametrize("name", ["quarter", "", 3, ["half"], None])
def test_an_unknown_name_is_told_what_there_is(name):
    with pytest.raises(UnknownNameError) as error:
        NUMBERS.check(name)
    assert str(error.value) == f"number must be one of half, third, not {name!r}"
    with pytest.raises(UnknownNameError, match=r"^number must be one of half, third, not 'quarter'$"):
        NUMBERS["quarter"]


def test_a_former_name_is_told_the_new_one():
    with pytest.raises(UnknownNameError, match=r"^the number '0\.5' is called 'half' now$"):
        NUMBERS.check("0.5")
    with pytest.raises(UnknownNameError, match=r"^the number '0\.5' is called 'half' now$"):
        NUMBERS["0.5"]


def test_a_thing_of_another_kind_is_refused(site):
    install_plugin(site, "acme_words", "flexcim.test-numbers", {"word": "acme_words:WORD"}, "WORD = 'five'")
    message = (
        r"^acme_words 1\.0 adds 'word' to flexcim\.test-numbers, but acme_words:WORD is of type str, not Fraction$"
    )
    with pytest.raises(PluginError, match=message):
        NUMBERS["word"]


@pytest.mark.parametrize(
    ("registry", "kind"), [(SCORES, ScoreRule), (SELECTORS, Selector)], ids=["scores", "selectors"]
)
def test_every_row_is_what_it_says(registry, kind):
    assert len(registry.own) == 4
    for name in registry.own:
        assert isinstance(registry[name], kind)


def test_the_former_name_of_the_measured_method_is_told():
    with pytest.raises(UnknownNameError, match=r"^the method 'flow' is called 'measured' now$"):
        SELECTORS.check("flow")


def test_a_list_of_names_imports_nothing_slow():
    script = (
        "from flexcim_flow.choice.selector import SELECTORS\nfrom flexcim_flow.layer.rule import SCORES\n"
        "import sys\nprint(*SCORES, *SELECTORS)\nprint(*{'torch', 'scipy', 'transformers'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "magnitude wanda ria obs measured paper uniform owl\n\n"
