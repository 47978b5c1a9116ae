"""The accelerator's cycle model: its figures against the limits of the macro and of the buses, and what it refuses.

That it equals the RTL, with and without stalls, is tested in tests/hw/accelerator and tests/sim/bench.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flexcim.accelerator.cycles import AcceleratorTiming
from flexcim.accelerator.instructions import AcceleratorProgram, LoadTile, Loop, RunTiles
from flexcim.accelerator.stream_cycles import stall_pattern
from flexcim.compiler.layer import compile_layer
from flexcim.config.accelerator import ACCELERATOR_PRESETS
from flexcim.config.pattern import Pattern
from flexcim.macro.cycles import CycleError
from flexcim_sim.bench.stimuli.accelerator_illegal import rounds
from tests.support.accelerators import ACCELERATORS

CONFIG = ACCELERATORS["two macros, odd beats, no memory"]
STREAMED = ["accelerator", "accelerator-2", "accelerator-4"]


def loads_and_run(stimulus):
    """The instructions of one round."""
    *loads, run = stimulus.instructions
    assert isinstance(run, RunTiles)
    return [load for load in loads if isinstance(load, LoadTile)], run


@pytest.mark.parametrize("name", STREAMED)
def test_prefill_is_near_the_limit_of_the_cells(name):
    """64 vectors, weights streaming: at least 90 % of the arrays' limit, T * A / b cycles for each tile and vector."""
    config = ACCELERATOR_PRESETS[name]
    for pattern in config.macro.patterns:
        layer = compile_layer(config, 512, 512, pattern, 64, groups=1)
        tiles = len(layer.tiling.tiles)
        assert layer.cycles.issue_cycles == tiles * 64 * config.macro.issue_cycles(pattern)
        assert layer.cycles.issue_cycles >= 0.9 * config.macros * layer.cycles.cycles, pattern


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("bus", [128, 512, 1024])
def test_decode_is_near_the_limit_of_the_weight_port(name, bus):
    """One vector: within 5 % of what the bus, or the macro's weight port, can bring."""
    config = replace(ACCELERATOR_PRESETS[name], weight_bus=bus)
    for pattern in config.macro.patterns:
        layer = compile_layer(config, 512, 512, pattern, 1, groups=1)
        beats = sum(config.macro.weight_beats(tile.rows) for tile in layer.tiling.tiles)
        limit = max(beats, beats * config.weight_beat_bits / bus)
        assert limit <= layer.cycles.cycles <= 1.05 * limit, pattern


def test_more_macros_are_faster_until_the_weight_port_is_the_limit():
    wide = ACCELERATOR_PRESETS["accelerator-4"]
    prefill, decode = (
        [
            compile_layer(replace(wide, macros=count), 512, 512, Pattern(1, 1), vectors).cycles.cycles
            for count in (1, 2, 4)
        ]
        for vectors in (64, 1)
    )
    assert 1.9 < prefill[0] / prefill[1] <= 2
    assert 3.8 < prefill[0] / prefill[2] <= 4
    assert len(set(decode)) == 1


@pytest.mark.parametrize("config", ACCELERATORS.values(), ids=ACCELERATORS)
@pytest.mark.parametrize("depth", [16, 4096])
def test_what_repeats_itself_takes_as_long_as_when_it_is_carried_out(config, depth):
    """With stall patterns, even one that never stalls, every instruction is carried out."""
    config = replace(config, program_depth=depth)
    never = {"weights": stall_pattern([True])}
    for vectors in (1, 9):
        layer = compile_layer(config, 90, 200, config.macro.patterns[-1], vectors)
        counted, carried_out = AcceleratorTiming(config), AcceleratorTiming(config)
        for program in layer.programs:
            assert counted.run(program) == carried_out.run(program, never)


def test_a_loop_takes_as_long_each_time():
    """Carried out, 65535 times would take minutes."""
    stimulus = rounds(CONFIG, np.random.default_rng(95), 2)
    body = tuple(stimulus.instructions)
    some, more, most = (
        AcceleratorTiming(CONFIG).run(AcceleratorProgram((Loop(length=len(body), count=count), *body)))
        for count in (100, 101, 65535)
    )
    for name, value in vars(most).items():
        each = getattr(more, name) - getattr(some, name)
        assert value == getattr(some, name) + (65535 - 100) * each, name


def test_a_loop_costs_one_instruction_more_than_its_body():
    stimulus = rounds(CONFIG, np.random.default_rng(91), 1)
    body = tuple(stimulus.instructions)
    timing = AcceleratorTiming(CONFIG)
    plain = timing.run(AcceleratorProgram(body * 3))
    looped = timing.run(AcceleratorProgram((Loop(length=len(body), count=3), *body)))
    assert looped.cycles - plain.cycles == 2
    assert replace(looped, cycles=0) == replace(plain, cycles=0)


def test_pauses_are_counted_by_the_stream_that_makes_them():
    config = ACCELERATORS["one bank, parallel"]
    stimulus = rounds(config, np.random.default_rng(92), 8)
    never = AcceleratorTiming(config).run(stimulus.program)
    for name, field in (("weights", "weight"), ("activations", "activation"), ("results", "result")):
        seldom = AcceleratorTiming(config).run(stimulus.program, {name: stall_pattern([True] + [False] * 9)})
        assert getattr(seldom, f"{field}_stalls") > getattr(never, f"{field}_stalls") + 20
        assert seldom.cycles > never.cycles
        assert seldom.issue_cycles == never.issue_cycles


def test_programs_that_never_finish_are_refused():
    stimulus = rounds(CONFIG, np.random.default_rng(93), 1)
    loads, run = loads_and_run(stimulus)
    with pytest.raises(CycleError, match="a run needs bank 0 of macro 0, which no load before it fills"):
        AcceleratorTiming(CONFIG).run(AcceleratorProgram((run,)))
    message = "a load must wait for bank 0 of macro 0, which no run before it releases"
    with pytest.raises(CycleError, match=message):
        AcceleratorTiming(CONFIG).run(AcceleratorProgram((loads[0], loads[0])))
    for change in (-1, 1):
        wrong = replace(loads[0], words=loads[0].words + change)
        with pytest.raises(CycleError, match=f"an image of {wrong.words} words was announced, but its beats need"):
            AcceleratorTiming(CONFIG).run(AcceleratorProgram((wrong,)))


def test_tiles_stay_from_one_program_to_the_next():
    stimulus = rounds(CONFIG, np.random.default_rng(94), 1)
    loads, run = loads_and_run(stimulus)
    timing = AcceleratorTiming(CONFIG)
    first = timing.run(AcceleratorProgram((*loads, replace(run, release=False))))
    again = timing.run(AcceleratorProgram((run,)))
    assert again.weight_words == 0
    assert again.cycles < first.cycles
    with pytest.raises(CycleError, match="which no load before it fills"):
        timing.run(AcceleratorProgram((run,)))
