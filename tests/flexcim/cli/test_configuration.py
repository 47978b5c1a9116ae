"""The configurations that --config and --preset stand for."""

from __future__ import annotations

import re

import pytest

from flexcim.cli import main
from flexcim.cli.configuration import (
    ConfigurationError,
    chosen_accelerator,
    chosen_configuration,
    chosen_configurations,
    chosen_macro,
)
from flexcim.config.accelerator import ACCELERATOR_PRESETS, AcceleratorConfig
from flexcim.config.errors import ConfigError
from flexcim.config.macro import PRESETS

CHOOSERS = [chosen_macro, chosen_accelerator, chosen_configuration]


@pytest.fixture
def macro_file(tmp_path):
    path = tmp_path / "macro.toml"
    path.write_text('preset = "board"\n[macro]\nbanks = 4\n')
    return path


@pytest.fixture
def accelerator_file(tmp_path):
    path = tmp_path / "accelerator.toml"
    path.write_text('preset = "accelerator-2"\n[macro]\nbanks = 4\n')
    return path


def test_without_options_each_has_its_default():
    assert chosen_macro(None, None) == chosen_configuration(None, None) == PRESETS["flexcim"]
    assert chosen_accelerator(None, None) == ACCELERATOR_PRESETS["accelerator"]
    assert chosen_configuration(None, None, accelerator=True) == AcceleratorConfig(macro=PRESETS["flexcim"])
    assert chosen_configurations(None, None) == {"flexcim": PRESETS["flexcim"]}


def test_a_macro_stands_for_an_accelerator_with_one_and_an_accelerator_for_its_macro(macro_file, accelerator_file):
    macro, accelerator = chosen_configuration(macro_file, None), chosen_configuration(accelerator_file, None)
    assert isinstance(accelerator, AcceleratorConfig)
    assert (accelerator.macros, accelerator.macro.banks) == (2, 4)
    assert chosen_macro(macro_file, None) == macro
    assert chosen_macro(accelerator_file, None) == accelerator.macro
    assert chosen_macro(None, "accelerator-board") == ACCELERATOR_PRESETS["accelerator-board"].macro
    assert chosen_accelerator(accelerator_file, None) == accelerator
    assert chosen_accelerator(None, "board") == AcceleratorConfig(macro=PRESETS["board"])
    assert chosen_configuration(None, "board", accelerator=True) == AcceleratorConfig(macro=PRESETS["board"])


@pytest.mark.parametrize("chosen", CHOOSERS)
@pytest.mark.parametrize("name", ["board", "nonsense"])
def test_a_file_and_a_name_exclude_each_other(chosen, name, macro_file):
    with pytest.raises(
        ConfigurationError, match=r"^--config and --preset exclude each other: a configuration file can"
    ):
        chosen(macro_file, name)


@pytest.mark.parametrize(
    "words",
    [
        ["generate"],
        ["prune", "model", "-o", "out", "--sparsity", "0.5"],
        ["compare", "model", "-o", "out"],
        ["compile", "packed", "-o", "out"],
        ["cycles", "packed"],
        ["generate-text", "--model", "model", "--prompt", "In"],
    ],
    ids=lambda words: words[0],
)
def test_every_subcommand_refuses_both(words, macro_file, monkeypatch, capsys):
    monkeypatch.chdir(macro_file.parent)
    assert main([*words, "--config", "macro.toml", "--preset", "nonsense"]) == 2
    said = "--config and --preset exclude each other: a configuration file can name its preset itself"
    assert capsys.readouterr() == ("", f"flexcim: {said}\n")


@pytest.mark.parametrize("chosen", [*CHOOSERS, lambda config, name: chosen_configurations([], [name])])
def test_an_unknown_name_is_refused(chosen):
    with pytest.raises(ConfigError, match=r"^unknown preset 'bord'; known are "):
        chosen(None, "bord")


@pytest.mark.parametrize("chosen", [*CHOOSERS, lambda config, name: chosen_configurations([config], [])])
def test_a_file_that_is_missing_is_named(chosen, tmp_path):
    path = tmp_path / "missing.toml"
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))}: cannot be read \(No such file or directory\)$"):
        chosen(path, None)


def test_several_have_labels_that_differ(macro_file, accelerator_file):
    chosen = chosen_configurations([macro_file, macro_file, accelerator_file], ["dense"])
    assert list(chosen) == ["dense", "macro", "macro-2", "accelerator"]
    assert chosen["dense"] == PRESETS["dense"]
    assert chosen["macro"] == chosen["macro-2"] == chosen_macro(macro_file, None)
    assert chosen["accelerator"] == chosen_accelerator(accelerator_file, None)
