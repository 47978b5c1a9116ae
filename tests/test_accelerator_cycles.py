"""The accelerator's cycle model: its figures against the limits of the macro and of the buses, and what it refuses.

That it equals the RTL, with and without stalls, is tested in test_accelerator.py and test_accelerator_bench.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flexcim.accelerator_config import ACCELERATOR_PRESETS, AcceleratorConfig
from flexcim.accelerator_cycles import AcceleratorTiming, stall_pattern
from flexcim.cycles import CycleError
from flexcim.instructions import AcceleratorProgram, LoadTile, Loop, RunTiles
from flexcim.pattern import Pattern
from flexcim.tiling import LayerTiling
from sim.bench.accelerator_illegal import rounds
from tests.accelerators import ACCELERATORS, layer_stimulus

CONFIG = ACCELERATORS["two macros, odd beats, no memory"]


def layer_cycles(config, size, pattern, vectors):
    """A square layer's cycles; its numbers do not matter."""
    tiling = LayerTiling(config.macro, size, size, Pattern.parse(pattern), 1, "a test")
    zeros = np.zeros((size, size), np.int8)
    stimulus = layer_stimulus(config, tiling, zeros, np.zeros((vectors, size), np.int8))
    return AcceleratorTiming(config).run(stimulus.program)


def loads_and_run(stimulus):
    """The instructions of one round."""
    *loads, run = stimulus.instructions
    assert isinstance(run, RunTiles)
    return [load for load in loads if isinstance(load, LoadTile)], run


@pytest.mark.parametrize("pattern", ["1:1", "2:4", "4:8", "2:8", "1:4"])
def test_prefill_is_near_the_limit_of_the_cells(pattern):
    """64 vectors, weights streaming: at least 90 % of the array's limit, T * A / b cycles for each tile and vector."""
    config = AcceleratorConfig()
    predicted = layer_cycles(config, 512, pattern, 64)
    assert predicted.issue_cycles >= 0.9 * predicted.cycles
    tile = Pattern.parse(pattern)
    assert predicted.issue_cycles == 512 * 512 * tile.n // tile.m // 4096 * 64 * 8


@pytest.mark.parametrize("macros", [1, 2, 4])
@pytest.mark.parametrize("pattern", ["1:1", "2:4", "2:8"])
@pytest.mark.parametrize("bus", [128, 256, 512])
def test_decode_is_near_the_limit_of_the_weight_port(macros, pattern, bus):
    """One vector: within 5 % of what the bus, or the macro's weight port, can bring."""
    config = AcceleratorConfig(macros=macros, weight_bus=bus)
    predicted = layer_cycles(config, 512, pattern, 1)
    tile = Pattern.parse(pattern)
    cells = 512 * 512 * tile.n // tile.m
    limit = max(cells / config.macro.weight_port, cells * config.macro.cell_bits / bus)
    assert limit <= predicted.cycles <= 1.05 * limit


def test_more_macros_are_faster_until_the_weight_port_is_the_limit():
    cycles = [layer_cycles(ACCELERATOR_PRESETS[name], 512, "1:1", 64).cycles for name in list(ACCELERATOR_PRESETS)[:3]]
    assert 1.9 < cycles[0] / cycles[1] <= 2
    assert 3.6 < cycles[0] / cycles[2] <= 4


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


def test_a_stall_pattern_repeats_itself():
    goes = stall_pattern([False, True, False, False, True])
    assert [goes(cycle) for cycle in range(12)] == [1, 1, 4, 4, 4, 6, 6, 9, 9, 9, 11, 11]
    with pytest.raises(ValueError, match="a stall pattern must go in at least one cycle"):
        stall_pattern([False, False])


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
