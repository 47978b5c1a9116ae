"""The registry of parameters: a new one is one field, and what reads the registry knows of it."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

import pytest

from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.errors import ConfigError
from flexcim.config.macro import MacroConfig
from flexcim.config.parameters import Configuration, parameter, parameters
from flexcim.config.pattern import Pattern
from tests.support.docs import docs_table


@dataclass(frozen=True, kw_only=True)
class Saturating(MacroConfig):
    """A macro with two parameters more: a second switch, and a bounded number."""

    saturate: bool = parameter(False, "clamp sums instead of refusing layers")
    guard_bits: int = parameter(4, "bits above the widest sum", symbol="g", low=0, high=8)


@dataclass(frozen=True, kw_only=True)
class Link(Configuration):
    """One parameter of each kind."""

    width: int = parameter(8, "bits of a flit", low=1, high=64, power_of_two=True)
    credits: int = parameter(None, "flits in flight", low=1, high=100, follows="width")
    order: str = parameter("low", "which end comes first", choices=("low", "high"))
    parity: bool = parameter(True, "send a parity bit")
    menu: tuple[Pattern, ...] = parameter((Pattern(2, 4),), "patterns")
    macro: Saturating = parameter(Saturating(), "what is linked")

    def check_relations(self) -> None:
        if self.parity and self.width == 1:
            raise ConfigError("parity takes one bit of the width, but width is 1")


def link(**values: object) -> Link:
    """A link of values of any kind."""
    return Link.from_mapping(values)


# --- A parameter is one field ----------------------------------------------------------------------------------------


def test_a_second_switch_is_checked_as_a_switch():
    assert Saturating().saturate is False
    assert Saturating(saturate=True).saturate is True
    with pytest.raises(TypeError, match=r"^saturate must be true or false, not 1$"):
        Saturating(saturate=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-1, 9])
def test_a_bounded_number_is_checked_by_its_bounds(value):
    assert [Saturating(guard_bits=bits).guard_bits for bits in (0, 8)] == [0, 8]
    with pytest.raises(ConfigError, match=rf"^guard_bits must be between 0 and 8, not {value}$"):
        Saturating(guard_bits=value)


def test_new_parameters_go_to_files_and_come_back(tmp_path):
    path = tmp_path / "my.toml"
    config = Saturating(rows=8, saturate=True, guard_bits=0)
    config.to_toml(path)
    assert "saturate = true\nguard_bits = 0\n" in path.read_text()
    assert Saturating.from_toml(path) == config
    path.write_text('preset = "board"\n[macro]\nguard_bits = 2\n')
    assert Saturating.from_toml(path) == Saturating(rows=8, columns=8, activation_port=16, guard_bits=2)
    path.write_text("[macro]\nsaturates = true\n")
    with pytest.raises(ConfigError, match=r"my\.toml: unknown parameter 'saturates'; did you mean 'saturate'\?$"):
        Saturating.from_toml(path)


def test_new_parameters_have_rows_of_the_table():
    *macro, saturate, guard_bits = parameters(Saturating)
    assert macro == list(parameters(MacroConfig))
    assert (saturate.meaning, saturate.range_text, saturate.default_text) == (
        "clamp sums instead of refusing layers",
        "true, false",
        "false",
    )
    assert (guard_bits.symbol, guard_bits.range_text, guard_bits.default_text) == ("g", "0 – 8", "4")


# --- Kinds and ranges ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 2.0}, "width must be an integer, not 2.0"),
        ({"width": True}, "width must be an integer, not True"),
        ({"width": 0}, "width must be a power of two from 1 to 64, not 0"),
        ({"width": 24}, "width must be a power of two from 1 to 64, not 24"),
        ({"width": 128}, "width must be a power of two from 1 to 64, not 128"),
        ({"credits": 101}, "credits must be between 1 and 100, not 101"),
        ({"order": "middle"}, "order must be one of low, high, not 'middle'"),
        ({"order": 3}, "order must be one of low, high, not 3"),
        ({"parity": "yes"}, "parity must be true or false, not 'yes'"),
        ({"menu": "2:4"}, "menu must be a list such as ['1:1', '4:8'], not '2:4'"),
        ({"menu": ["2:4", "5:4"]}, "menu: pattern 5:4 must keep between 1 and m = 4 weights of a block, not n = 5"),
        ({"macro": 4}, "macro must be a table, not 4"),
        ({"macro": {"saturate": 0}}, "saturate must be true or false, not 0"),
        ({"macro": {"guard": 1}}, "unknown parameter 'guard'; did you mean 'guard_bits'?"),
        ({"widht": 1}, "unknown parameter 'widht'; did you mean 'width'?"),
        ({"zzz": 1}, "unknown parameter 'zzz'; known are width, credits, order, parity, menu, macro"),
        ({"width": 1}, "parity takes one bit of the width, but width is 1"),
    ],
)
def test_each_kind_has_its_sentences(values, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        link(**values)


def test_a_configuration_of_another_class_is_refused():
    with pytest.raises(TypeError, match=r"^macro must be a Saturating, not 4$"):
        Link(macro=4)  # type: ignore[arg-type]


def test_plain_values_come_back():
    config = link(width=16, order="high", parity=False, menu=["1:1", "4:8"], macro={"guard_bits": 1})
    assert config.menu == (Pattern(1, 1), Pattern(4, 8))
    assert config.macro == Saturating(guard_bits=1)
    assert config.to_mapping() == {
        "width": 16,
        "credits": 16,
        "order": "high",
        "parity": False,
        "menu": ["1:1", "4:8"],
        "macro": Saturating(guard_bits=1).to_mapping(),
    }
    assert Link.from_mapping(config.to_mapping()) == config


def test_what_follows_goes_on_to_follow():
    assert link().credits == 8
    assert link(width=32).credits == 32
    assert link(width=32, credits=5).credits == 5
    assert Link.from_mapping({"width": 64}, base=link(width=32)).credits == 64
    assert Link.from_mapping({"width": 64}, base=link(credits=5)).credits == 5


def test_the_table_of_each_kind():
    assert [(row.name, row.range_text, row.default_text) for row in parameters(Link)] == [
        ("width", "1 – 64", "8"),
        ("credits", "1 – 100", "width"),
        ("order", "low, high", "low"),
        ("parity", "true, false", "true"),
        ("menu", "–", "2:4"),
        ("macro", "–", "–"),
    ]


# --- Rows that cannot be ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Unbounded(Configuration):
    """A number without a bound."""

    depth: int = parameter(1, "how deep", low=0)


@dataclass(frozen=True, kw_only=True)
class Wordy(Configuration):
    """A word that may be anything."""

    word: str = parameter("", "any word")


@dataclass(frozen=True, kw_only=True)
class Real(Configuration):
    """A kind without rules."""

    ratio: float = parameter(0.5, "a share")


@dataclass(frozen=True, kw_only=True)
class Bare(Configuration):
    """A field without a row."""

    rows: int = 4


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Unbounded, "the parameter depth is an integer, so it needs low and high"),
        (Wordy, "the parameter word is a word, so it needs choices"),
        (Real, "the parameter ratio is of a kind that no rule is known for, <class 'float'>"),
        (Bare, "the field rows of Bare is no parameter(...)"),
    ],
)
def test_a_field_that_no_rule_could_check_is_refused(kind, message):
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        kind()


# --- The contract ----------------------------------------------------------------------------------------------------


def test_the_contract_has_a_row_for_each_parameter():
    """docs/architecture.md, sections 1 and 7: these rows, and no others."""
    told = {cells[1]: cells for cells in docs_table("symbol", "name in code and TOML", "meaning", "range", "default")}
    for row in (*parameters(MacroConfig), *parameters(AcceleratorConfig)):
        name = f"`{row.name}`"
        assert told.pop(name) == [row.symbol, name, row.meaning, row.range_text, row.default_text]
    assert told == {}


@pytest.mark.parametrize("kind", [MacroConfig, AcceleratorConfig])
def test_a_docstring_names_the_parameters_in_order(kind):
    named = re.findall(r"^(\w+(?:, \w+)*) : ", inspect.cleandoc(kind.__doc__), flags=re.MULTILINE)
    assert ", ".join(named).split(", ") == [row.name for row in parameters(kind)]
