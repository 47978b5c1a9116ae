"""What coverage tells apart: which crosses are legal, counted by hand and by the golden model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import PRESETS, MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.macro.commands import ErrorKind, Load, Run
from flexcim_sim.bench.coverage.model import SeenRun, coverage_axes, legal_crosses, legal_runs
from flexcim_sim.golden.macro import GoldenMacro
from tests.support.simulation import CONFIGS

ONE_CELL = MacroConfig.from_mapping(
    {
        "sub_macros": 1,
        "rows": 1,
        "columns": 1,
        "patterns": ["1:1", "1:4"],
        "activation_port": 1,
        "result_port": 1,
        "accumulator_depth": 1,
    }
)


def labels(config):
    """The legal crosses by axis."""
    names = [axis.name for axis in coverage_axes(config)]
    return [dict(zip(names, cross, strict=True)) for cross in legal_crosses(config)]


def test_the_axes_are_those_of_the_configuration():
    config = CONFIGS["two bits, wide windows"]
    assert {axis.name: axis.bins for axis in coverage_axes(config)} == {
        "pattern": ("1:1", "4:8", "2:8", "1:4"),
        "groups": ("1", "2", "4"),
        "bits per cycle": ("2",),
        "K tiles": ("1", "2", "3+"),
        "stall": ("none", "weights", "activations", "results", "several"),
        "bank": ("0", "1", "2"),
        "position": ("only", "first", "middle", "last"),
    }
    requantized = coverage_axes(CONFIGS["half parallel, requantized"])
    assert next(axis.bins for axis in requantized if axis.name == "stall")[-2:] == ("constants", "several")


def test_the_legal_crosses_of_the_default_instance_are_as_counted_by_hand():
    # 20 modes: 1:1, 1:2 and 1:4 at three G, 2:4 and 2:8 at two, seven 4:m at one; two banks; five kinds of stalls.
    # Six places: the only K tile, two of two, and the first, a middle and the last of three or more.
    assert len(legal_crosses(PRESETS["flexcim"])) == (3 * 3 + 2 * 2 + 7 * 1) * 2 * 5 * 6


def test_one_beat_has_no_pause_in_it():
    # 1:1 takes one beat, and D holds one vector, so while a K tile passes without results, no activations can be
    # missing: three of its six places have four kinds of stalls. 1:4 takes four beats through the port of one element.
    assert len(legal_crosses(ONE_CELL)) == 2 * (3 * 5 + 3 * 4) + 2 * (6 * 5)
    impossible = [
        it
        for it in itertools.product(*(axis.bins for axis in coverage_axes(ONE_CELL)))
        if it[0] == "1:1" and it[4] == "activations" and it[6] in ("first", "middle")
    ]
    assert impossible
    assert not set(legal_crosses(ONE_CELL)) & set(impossible)


def golden_accepts(config, pattern, groups, bank, k_tiles):
    """Whether the golden macro carries an accumulation out."""
    macro = GoldenMacro(config)
    shape = (1, config.sub_macros, config.columns)
    for k_tile in range(k_tiles):
        macro.load(Load(bank=bank, rows=1).payload(), np.zeros(shape, np.int8), np.zeros(shape, np.uint8))
        command = Run(
            bank=bank,
            pattern=pattern,
            groups=groups,
            rows=1,
            vectors=1,
            first_k=k_tile == 0,
            last_k=k_tile == k_tiles - 1,
        )
        beats = config.vector_beats(max(1, config.window(pattern, groups)), 1)
        macro.run(command.payload(config), np.zeros((1, beats, config.activation_port), np.int8))
    return macro.error is ErrorKind.NONE


@pytest.mark.parametrize("name", CONFIGS)
def test_the_golden_model_accepts_the_legal_modes_and_no_others(name):
    config = CONFIGS[name]
    accepted = {
        (str(pattern), str(groups), "3+" if k_tiles == 3 else str(k_tiles), str(bank))
        for pattern, groups, bank, k_tiles in itertools.product(
            config.patterns, config.group_counts, range(config.banks), (1, 2, 3)
        )
        if golden_accepts(config, pattern, groups, bank, k_tiles)
    }
    legal = labels(config)
    assert {(it["pattern"], it["groups"], it["K tiles"], it["bank"]) for it in legal} == accepted


@pytest.mark.parametrize("name", CONFIGS)
def test_places_fit_the_number_of_k_tiles(name):
    legal = labels(CONFIGS[name])
    assert {(it["K tiles"], it["position"]) for it in legal} == {
        ("1", "only"),
        *(("2", place) for place in ("first", "last")),
        *(("3+", place) for place in ("first", "middle", "last")),
    }


def test_replay_needs_memory():
    macro = CONFIGS["two bits, wide windows"]
    beats = {mode: macro.vector_beats(macro.window(*mode), 1) for mode in macro.modes}
    assert set(beats.values()) == {1, 2, 4}
    for memory in range(5):
        legal = labels(AcceleratorConfig(macro=macro, activation_memory=memory))
        replayed = {(it["pattern"], it["groups"]) for it in legal if it["source"] == "replay"}
        assert replayed == {(str(pattern), str(groups)) for (pattern, groups), it in beats.items() if it <= memory}
        assert replayed == {(it["pattern"], it["groups"]) for it in legal if it["source"] == "store"}
        streamed = [it for it in legal if it["source"] == "stream"]
        assert len(streamed) == len(macro.modes) * 6 * macro.banks * 5


def test_each_legal_run_is_labelled_as_one_of_its_bins():
    for config in CONFIGS.values():
        for axis, run in itertools.product(coverage_axes(config), legal_runs(config)):
            assert axis.label(run) in axis.bins


def test_many_k_tiles_are_alike():
    command = Run(bank=0, pattern=Pattern(1, 1), groups=1, rows=1, vectors=1, first_k=False, last_k=False)
    (axis,) = [axis for axis in coverage_axes(ONE_CELL) if axis.name == "K tiles"]
    seen = [SeenRun(command=command, k_tile=1, k_tiles=count, stalled=frozenset()) for count in (2, 3, 9)]
    assert [axis.label(run) for run in seen] == ["2", "3+", "3+"]
    assert [run.position for run in seen] == ["middle"] * 3
