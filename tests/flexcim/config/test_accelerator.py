"""The accelerator's configuration: each rule has its sentence, and TOML comes back as it went out."""

from __future__ import annotations

import re

import pytest

from flexcim.config.accelerator import ACCELERATOR_PRESETS, AcceleratorConfig, names_accelerator
from flexcim.config.errors import ConfigError
from flexcim.config.macro import PRESETS, MacroConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"macros": 0}, "macros must be between 1 and 16, not 0"),
        ({"macros": 17}, "macros must be between 1 and 16, not 17"),
        ({"weight_bus": 16}, "weight_bus must be a power of two from 32 to 1024, not 16"),
        ({"activation_bus": 2048}, "activation_bus must be a power of two from 32 to 1024, not 2048"),
        ({"result_bus": 96}, "result_bus must be a power of two from 32 to 1024, not 96"),
        ({"activation_memory": -1}, "activation_memory must be between 0 and 1048576, not -1"),
        ({"program_depth": 1}, "program_depth must be between 2 and 65536, not 1"),
        ({"register_bus": "apb"}, "register_bus must be one of axi4-lite, wishbone, not 'apb'"),
        (
            {"macro": {"requantizer": True}},
            "macro.requantizer must be false in an accelerator, which has no port for its constants, not true",
        ),
        ({"macro": {"sub_macros": 3}}, "sub_macros must be a power of two from 1 to 64, not 3"),
        ({"macro": 4}, "macro must be a table, not 4"),
        ({"macross": 2}, "unknown parameter 'macross'; did you mean 'macros'?"),
        ({"macros": 2.0}, "macros must be an integer, not 2.0"),
        ({"macros": True}, "macros must be an integer, not True"),
    ],
)
def test_a_broken_rule_is_told_in_one_sentence(values, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        AcceleratorConfig.from_mapping(values)


def test_a_macro_must_be_one():
    with pytest.raises(TypeError, match=r"^macro must be a MacroConfig, not 4$"):
        AcceleratorConfig(macro=4)  # type: ignore[arg-type]


@pytest.mark.parametrize("config", ACCELERATOR_PRESETS.values(), ids=ACCELERATOR_PRESETS)
def test_toml_and_mapping_come_back(config, tmp_path):
    path = tmp_path / "accelerator.toml"
    config.to_toml(path)
    assert AcceleratorConfig.from_toml(path) == config
    assert AcceleratorConfig.from_mapping(config.to_mapping()) == config
    assert names_accelerator(path)


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ('preset = "accelerator-4"\n', ACCELERATOR_PRESETS["accelerator-4"]),
        ('preset = "board"\n[accelerator]\nmacros = 2\n', AcceleratorConfig(macro=PRESETS["board"], macros=2)),
        ("[macro]\nrows = 8\n[accelerator]\n", AcceleratorConfig(macro=MacroConfig(rows=8))),
    ],
)
def test_a_file_says_what_differs_from_a_preset(text, config, tmp_path):
    path = tmp_path / "some.toml"
    path.write_text(text)
    assert AcceleratorConfig.from_toml(path) == config
    assert names_accelerator(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[engine]\n", "unknown key 'engine'; a configuration has 'preset' and tables [macro] and [accelerator]"),
        ("accelerator = 3\n", "accelerator must be a table, not 3"),
        ("[accelerator.macro]\n", "the macro's parameters belong into a table [macro] of its own, not [accelerator]"),
        ("[accelerator]\nmacros = 99\n", "macros must be between 1 and 16, not 99"),
        ("[accelerator]\nmacros = 0x" + "f" * 5000, "Exceeds the limit (4300"),
        ("macro = 3\n", "macro must be a table, not 3"),
        ('preset = "no"\n', f"unknown preset 'no'; known are {', '.join((*ACCELERATOR_PRESETS, *PRESETS))}"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_name(text, message, tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"^{re.escape(f'{path}: {message}')}"):
        AcceleratorConfig.from_toml(path)


def test_a_macro_has_no_accelerator(tmp_path):
    path = tmp_path / "macro.toml"
    path.write_text('preset = "board"\n[macro]\nrows = 4\n')
    assert not names_accelerator(path)


def test_what_is_no_name_of_a_preset_names_no_accelerator(tmp_path):
    path = tmp_path / "list.toml"
    path.write_text('preset = ["accelerator"]\n')
    assert not names_accelerator(path)
    with pytest.raises(ConfigError, match=r"list\.toml: unknown preset \['accelerator'\]; known are accelerator, "):
        AcceleratorConfig.from_toml(path)
