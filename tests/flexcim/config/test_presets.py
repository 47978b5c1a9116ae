"""Presets: each row of the registry makes what it says, the docs list them all, and a name that is none is refused."""

from __future__ import annotations

import pytest

from flexcim.config.accelerator import ACCELERATOR_PRESETS, AcceleratorConfig, accelerator_preset
from flexcim.config.errors import ConfigError
from flexcim.config.macro import PRESETS, MacroConfig, preset
from flexcim.config.pattern import DEFAULT_PATTERNS, menu
from flexcim.config.presets import REGISTRY, find_preset
from tests.support.docs import docs_table


def test_the_contract_lists_the_presets():
    """docs/architecture.md, section 5."""
    rows = {cells[0].strip("`"): cells[1] for cells in docs_table("preset", "what it stands for")}
    assert rows == {row.name: row.stands_for for row in REGISTRY}


def test_each_row_makes_one_configuration():
    assert [*PRESETS, *ACCELERATOR_PRESETS] == [row.name for row in REGISTRY]


def test_the_macros_are_those_of_the_architecture():
    assert preset("flexcim") == MacroConfig()
    assert preset("wide") == MacroConfig(activation_port=128, patterns=DEFAULT_PATTERNS + menu("1:8 2:5 2:6 2:7"))
    assert preset("two-lane") == MacroConfig(lanes=2, patterns=menu("1:1 1:2 2:4 4:8 2:8"))
    assert preset("dense") == MacroConfig(lanes=1, index_bits=0, patterns=menu("1:1"))
    assert preset("double-broadcast") == MacroConfig(lanes=2, index_bits=1, patterns=menu("1:1 1:2"))
    assert preset("fixed-2-4") == MacroConfig(lanes=3, index_bits=2, patterns=menu("1:1 2:4"))
    assert preset("board") == MacroConfig(rows=8, columns=8, activation_port=16)
    assert preset("board").weight_port == 8


def test_the_accelerators():
    assert accelerator_preset("accelerator") == AcceleratorConfig()
    assert accelerator_preset("accelerator-2") == AcceleratorConfig(macros=2)
    assert accelerator_preset("accelerator-4") == AcceleratorConfig(
        macro=MacroConfig(weight_port=128), macros=4, weight_bus=1024
    )
    assert accelerator_preset("accelerator-board") == AcceleratorConfig(
        macro=preset("board"),
        weight_bus=32,
        activation_bus=32,
        result_bus=32,
        activation_memory=256,
        program_depth=128,
    )


@pytest.mark.parametrize("name", PRESETS)
def test_any_macro_makes_an_accelerator(name):
    assert accelerator_preset(name) == AcceleratorConfig(macro=PRESETS[name])


@pytest.mark.parametrize("name", ["Board", "", None, ["board"]])
def test_an_unknown_preset_is_refused(name):
    macros, accelerators = ", ".join(PRESETS), ", ".join(ACCELERATOR_PRESETS)
    for find, known in (
        (find_preset, f"{macros}, {accelerators}"),
        (preset, macros),
        (accelerator_preset, f"{accelerators}, {macros}"),
    ):
        with pytest.raises(ConfigError) as error:
            find(name)
        assert str(error.value) == f"unknown preset {name!r}; known are {known}"


def test_an_accelerator_is_no_macro():
    with pytest.raises(ConfigError, match=f"unknown preset 'accelerator-2'; known are {', '.join(PRESETS)}$"):
        MacroConfig.from_document({"preset": "accelerator-2"})
