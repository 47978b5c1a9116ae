"""The configuration: every rule with its message, derived figures, and TOML."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any

import pytest

from flexcim.config.errors import ConfigError
from flexcim.config.macro import PRESETS, MacroConfig, ceil_div, preset
from flexcim.config.parameters import parameters
from flexcim.config.pattern import Pattern

# --- Rules -----------------------------------------------------------------------------------------------------------

NUMBERS = {row.name: row for row in parameters(MacroConfig) if row.kind is int}


def make(**values: Any) -> MacroConfig:
    """A configuration of values of any kind; patterns may be a list of strings, too."""
    return MacroConfig(**values)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_out_of_its_range_is_refused(name):
    low, high = NUMBERS[name].low, NUMBERS[name].high
    assert low is not None
    assert high is not None
    rule = f"a power of two from {low} to {high}" if name == "sub_macros" else f"between {low} and {high}"
    for value in (low - 1, high + 1, -5):
        with pytest.raises(ConfigError, match=f"^{name} must be {rule}, not {value}$"):
            make(**{name: value})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sub_macros": 6}, "sub_macros must be a power of two from 1 to 64, not 6"),
        ({"bits_per_cycle": 3}, "bits_per_cycle must divide activation_bits, but 3 does not divide 8"),
        (
            {"lanes": 9},
            "lanes must be at most 2^index_bits = 8, the offsets that a cell can name, not 9",
        ),
        (
            {"weight_port": 24},
            "weight_port must divide columns = 32, or be a multiple of it that divides "
            "sub_macros * columns = 128, not 24",
        ),
        (
            {"weight_port": 96},
            "weight_port must divide columns = 32, or be a multiple of it that divides "
            "sub_macros * columns = 128, not 96",
        ),
        (
            {"weight_port": 256},
            "weight_port must divide columns = 32, or be a multiple of it that divides "
            "sub_macros * columns = 128, not 256",
        ),
        (
            {"result_port": 129},
            "result_port must be at most sub_macros * columns = 128, the results of a vector, not 129",
        ),
        ({"accumulator_depth": 66}, "accumulator_depth must be a multiple of sub_macros = 4, not 66"),
        ({"patterns": []}, "patterns must name at least one pattern, not an empty menu"),
        ({"patterns": ["2:4", "8:8", "4:4"]}, "patterns must not name 1:1 twice (n:n is read as 1:1)"),
        ({"patterns": ["4:12", "4:13"]}, "pattern 4:12 needs offsets up to 8, but index_bits = 3 reach only 7"),
        ({"patterns": ["3:5"]}, "pattern 3:5 keeps n = 3, which must divide sub_macros = 4"),
        ({"patterns": ["8:9"]}, "pattern 8:9 keeps n = 8, which must divide sub_macros = 4"),
        ({"patterns": ["half"]}, "patterns: a pattern must be written n:m, such as 4:8, not 'half'"),
        ({"patterns": [48]}, "patterns: a pattern must be written n:m, such as 4:8, not 48"),
        (
            {"patterns": ["5:4"]},
            "patterns: pattern 5:4 must keep between 1 and m = 4 weights of a block, not n = 5",
        ),
    ],
)
def test_a_broken_relation_is_refused(values, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        MacroConfig(**values)


def test_a_menu_that_a_run_command_cannot_name_is_refused():
    menu = [Pattern(n, m) for n in (1, 2) for m in range(n + 1, n + 130)]
    with pytest.raises(ConfigError, match="patterns must name at most 256 patterns, not 258"):
        make(index_bits=8, patterns=menu)
    assert len(make(index_bits=8, patterns=menu[:256]).patterns) == 256


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rows": 32.0}, "rows must be an integer, not 32.0"),
        ({"rows": "32"}, "rows must be an integer, not '32'"),
        ({"banks": True}, "banks must be an integer, not True"),
        ({"requantizer": 1}, "requantizer must be true or false, not 1"),
        ({"patterns": "4:8"}, "patterns must be a list such as ['1:1', '4:8'], not '4:8'"),
        ({"patterns": 48}, "patterns must be a list such as ['1:1', '4:8'], not 48"),
    ],
)
def test_a_parameter_of_the_wrong_kind_is_refused(values, message):
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        MacroConfig(**values)


@pytest.mark.parametrize("port", [1, 8, 32, 64, 128])
def test_the_weight_port_divides_the_columns_or_holds_whole_sub_macros(port):
    assert MacroConfig(weight_port=port).weight_beats(32) == 32 * 128 // port


def test_the_extremes_of_all_ranges_make_a_configuration():
    smallest = make(
        sub_macros=1,
        rows=1,
        columns=1,
        lanes=1,
        index_bits=0,
        weight_bits=2,
        activation_bits=2,
        banks=1,
        activation_port=1,
        result_port=1,
        accumulator_depth=1,
        patterns=("1:1",),
    )
    assert smallest.modes == ((Pattern(1, 1), 1),)
    largest = make(
        sub_macros=64,
        rows=1024,
        columns=1024,
        lanes=256,
        index_bits=8,
        bits_per_cycle=8,
        banks=8,
        activation_port=4096,
        weight_port=65536,
        result_port=65536,
        accumulator_depth=65536,
        patterns=("64:319",),
    )
    # The largest sum of one tile: every product is -128 * -128.
    assert largest.rows * largest.sub_macros * 128 * 128 < 1 << 31


def test_a_configuration_is_frozen_and_hashable():
    config = make(patterns=["1:1", "2:4"])
    assert config == MacroConfig(patterns=(Pattern(4, 4), Pattern(2, 4)))
    assert hash(config) == hash(make(patterns=["1:1", "2:4"]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.rows = 8  # type: ignore[misc]


# --- What follows ----------------------------------------------------------------------------------------------------


def test_the_figures_of_the_default_instance():
    config = MacroConfig()
    assert config.weight_port == 32
    assert config.cell_bits == 11
    assert config.slices == 8
    assert config.group_counts == (1, 2, 4)
    assert config.max_window == 16
    assert len(config.modes) == 7 + 2 * 2 + 3 * 3


@pytest.mark.parametrize(
    ("pattern", "groups", "window", "tile_inputs", "tile_outputs"),
    [
        ("1:1", 1, 4, 128, 32),
        ("1:1", 4, 1, 32, 128),
        ("2:4", 2, 4, 128, 64),
        ("4:8", 1, 8, 256, 32),
        ("4:11", 1, 11, 352, 32),
    ],
)
def test_windows_and_tiles(pattern, groups, window, tile_inputs, tile_outputs):
    config = MacroConfig()
    assert config.window(Pattern.parse(pattern), groups) == window
    assert config.tile_inputs(Pattern.parse(pattern), groups) == tile_inputs
    assert config.tile_outputs(groups) == tile_outputs


def test_every_default_pattern_takes_one_phase():
    config = MacroConfig()
    assert {config.phases(pattern) for pattern in config.patterns} == {1}
    assert {config.issue_cycles(pattern) for pattern in config.patterns} == {8}


def test_fewer_lanes_take_more_phases():
    config = preset("two-lane")
    phases = {str(pattern): config.phases(pattern) for pattern in config.patterns}
    assert phases == {"1:1": 1, "1:2": 1, "2:4": 2, "4:8": 3, "2:8": 4}
    assert config.issue_cycles(Pattern(2, 8)) == 32


@pytest.mark.parametrize(
    ("window", "rows", "per_beat", "beats"),
    [(4, 32, 16, 2), (4, 17, 16, 2), (4, 16, 16, 1), (11, 32, 4, 8), (11, 1, 4, 1), (64, 32, 1, 32), (65, 3, 0, 6)],
)
def test_activation_beats_of_a_vector(window, rows, per_beat, beats):
    config = MacroConfig()
    assert config.windows_per_beat(window) == per_beat
    assert config.vector_beats(window, rows) == beats


def test_windows_per_beat_divide_the_rows():
    assert MacroConfig(rows=6, activation_port=20).windows_per_beat(4) == 3


def test_result_beats_are_rounded_up():
    config = MacroConfig(result_port=24)
    assert [config.result_beats(groups) for groups in (1, 2, 4)] == [2, 3, 6]


def test_legal_groups():
    config = MacroConfig()
    assert config.legal_groups(Pattern(1, 4)) == (1, 2, 4)
    assert config.legal_groups(Pattern(2, 4)) == (1, 2)
    assert config.legal_groups(Pattern(4, 8)) == (1,)
    with pytest.raises(ConfigError, match=r"pattern 3:4 is not on the menu 1:1 4:5 .* 1:4"):
        config.legal_groups(Pattern(3, 4))


@pytest.mark.parametrize("groups", [0, 3, 4, 8])
def test_an_illegal_mode_is_refused(groups):
    MacroConfig().check_mode(Pattern(2, 4), 2)
    with pytest.raises(ConfigError, match=rf"pattern 2:4 is legal at groups 1, 2 of this instance .*, not {groups}"):
        MacroConfig().check_mode(Pattern(2, 4), groups)


def test_ceil_div():
    assert [ceil_div(dividend, 4) for dividend in (0, 1, 4, 5)] == [0, 1, 1, 2]


# --- Plain values and TOML -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_survives_toml(name, tmp_path):
    config = dataclasses.replace(PRESETS[name], requantizer=True, banks=3)
    config.to_toml(tmp_path / "macro.toml")
    assert MacroConfig.from_toml(tmp_path / "macro.toml") == config
    assert os.listdir(tmp_path) == ["macro.toml"]


def test_toml_names_a_preset_and_what_differs(tmp_path):
    path = tmp_path / "macro.toml"
    path.write_text('preset = "board"\n[macro]\nbanks = 4\npatterns = ["1:1", "4:8"]\n')
    assert MacroConfig.from_toml(path) == dataclasses.replace(
        preset("board"), banks=4, patterns=(Pattern(1, 1), Pattern(4, 8))
    )
    path.write_text("")
    assert MacroConfig.from_toml(path) == MacroConfig()


def test_the_weight_port_follows_the_columns():
    assert MacroConfig(columns=16).weight_port == 16
    assert MacroConfig.from_mapping({"columns": 16}).weight_port == 16
    assert MacroConfig.from_mapping({"columns": 16}, base=preset("board")).weight_port == 16
    assert MacroConfig.from_mapping({"columns": 16, "weight_port": 8}).weight_port == 8
    assert MacroConfig.from_mapping({"columns": 16}, base=MacroConfig(weight_port=8)).weight_port == 8


def test_an_unknown_parameter_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match="unknown parameter 'colums'; did you mean 'columns'"):
        MacroConfig.from_mapping({"colums": 16})
    with pytest.raises(ConfigError, match=r"unknown parameter 'zzz'; known are sub_macros, .*, requantizer"):
        MacroConfig.from_mapping({"zzz": 16})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows = ", r"is no TOML \("),
        ("[macro]\nrows = 0x" + "f" * 5000, r"Exceeds the limit \(4300"),
        ("rows = 8", "unknown key 'rows'; a configuration has 'preset' and a table"),
        ("macro = 5", "macro must be a table, not 5"),
        ('preset = "boards"', "unknown preset 'boards'; known are flexcim, wide, two-lane,"),
        ('preset = ["board"]', r"unknown preset \['board'\]; known are"),
        ("[macro]\nrows = 0", "rows must be between 1 and 1024, not 0"),
        ("[macro]\nrows = 8.5", r"rows must be an integer, not 8\.5"),
        ("[macro]\nrow = 8", "unknown parameter 'row'; did you mean 'rows'"),
    ],
)
def test_a_bad_toml_file_is_refused_by_name(text, message, tmp_path):
    path = tmp_path / "macro.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"macro\.toml: {message}"):
        MacroConfig.from_toml(path)
