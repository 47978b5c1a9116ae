"""The weight feeder: each tile goes to its macro, behind its command and in the order of the loads."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from flexcim.accelerator.bus_words import tile_words
from flexcim.accelerator.instructions import AcceleratorError, Opcode
from flexcim_hw.accelerator.weight_feeder import WeightFeeder
from tests.support.accelerators import ACCELERATORS
from tests.support.feeders import play_feeder
from tests.support.instructions import image_words, instruction, pausing, random_bits
from tests.support.simulation import Source, exchange, simulate

for_each_accelerator = pytest.mark.parametrize("config", ACCELERATORS.values(), ids=ACCELERATORS)
ONE = ACCELERATORS["one macro"]
THREE = ACCELERATORS["three macros, narrow buses"]
SEVERAL_WORDS = {name: config for name, config in ACCELERATORS.items() if tile_words(config, config.macro.rows) > 1}


@dataclass
class Loads:
    """Random loads: instructions, the bus's words, and what each macro is to get."""

    instructions: list[int] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    commands: list[list[int]] = field(default_factory=list)
    beats: list[list[int]] = field(default_factory=list)

    @classmethod
    def random(cls, config, rng, count, rows=None):
        made = cls(commands=[[] for _ in range(config.macros)], beats=[[] for _ in range(config.macros)])
        for _ in range(count):
            macro, bank = int(rng.integers(config.macros)), int(rng.integers(config.macro.banks))
            height = rows or int(rng.integers(1, config.macro.rows + 1))
            bits = config.weight_beat_bits
            beats = [random_bits(rng, bits) for _ in range(config.macro.weight_beats(height))]
            words = image_words(rng, beats, bits, config.weight_bus)
            assert len(words) == tile_words(config, height)
            made.instructions.append(instruction(Opcode.LOAD, macro=macro, bank=bank, rows=height, words=len(words)))
            made.words += [word | (index == len(words) - 1) << config.weight_bus for index, word in enumerate(words)]
            made.commands[macro].append(bank | height << 4)
            made.beats[macro] += [beat | (index == len(beats) - 1) << bits for index, beat in enumerate(beats)]
        return made


def play(config, loads, cycles, pause=lambda: False, halt_from=None):
    feeder = WeightFeeder(config)
    return play_feeder(feeder, loads, (feeder.load, feeder.weights), cycles, pause, halt_from)


@for_each_accelerator
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_tiles_go_to_their_macros_in_order(config, share):
    rng = np.random.default_rng(81)
    loads = Loads.random(config, rng, 8)
    played = play(config, loads, 4 * len(loads.words) + 4 * sum(map(len, loads.beats)) + 100, pausing(rng, share))
    assert [sink.payloads for sink in played.commands] == loads.commands
    assert [sink.payloads for sink in played.beats] == loads.beats
    assert played.instructions.exhausted
    assert played.words.exhausted
    assert not any(played.errors)
    # Idle but from the first load's dispatch to the last beat.
    last = max(sink.cycles[-1] for sink in played.beats if sink.cycles)
    busy = range(played.instructions.taken[0] + 1, last + 1)
    assert [cycle for cycle, idle in enumerate(played.idle) if not idle] == list(busy)


@for_each_accelerator
def test_tiles_follow_each_other_in_their_interval(config):
    """A command leaves `latency` cycles after its dispatch, and each tile as soon as beats and words allow."""
    loads = Loads.random(config, np.random.default_rng(82), 3 * config.macros, rows=config.macro.rows)
    played = play(config, loads, 3 * config.macros * (len(loads.words) + 10))
    feeder, rows = played.feeder, config.macro.rows
    commands = sorted(cycle for sink in played.commands for cycle in sink.cycles)
    assert commands[0] == played.instructions.taken[0] + feeder.latency
    beats = sorted(cycle for sink in played.beats for cycle in sink.cycles)
    ends = beats[config.macro.weight_beats(rows) - 1 :: config.macro.weight_beats(rows)]
    # Padding of the last word lets a tile begin a word later; where the image is whole words, the interval is exact.
    assert all(gap <= feeder.interval(rows) + 1 for gap in np.diff(ends))
    if config.macro.weight_beats(rows) * config.weight_beat_bits % config.weight_bus == 0:
        assert set(np.diff(ends).tolist()) == {feeder.interval(rows)}


def test_so_many_loads_wait_and_no_more():
    loads = Loads.random(THREE, np.random.default_rng(83), THREE.load_queue + 4)
    loads.words = []
    played = play(THREE, loads, 80)
    assert len(played.instructions.taken) == THREE.load_queue
    # Commands do not wait for weights; a macro that could take a beat is a stall.
    assert sum(len(sink.taken) for sink in played.commands) == THREE.load_queue
    assert not any(sink.taken for sink in played.beats)
    assert played.stalled[-1]


def test_a_macro_that_is_not_ready_is_no_stall():
    loads = Loads.random(ONE, np.random.default_rng(84), 1)
    feeder = WeightFeeder(ONE)
    sources = [Source(feeder.instructions, loads.instructions), Source(feeder.words, loads.words)]
    offered, stalled = [], []

    async def bench(ctx):
        for cycle in range(30):
            exchange(ctx, sources, cycle)
            offered.append(ctx.get(feeder.weights[0].valid))
            stalled.append(ctx.get(feeder.stalled))
            await ctx.tick()

    simulate(feeder, bench)
    assert any(offered)
    assert not any(stalled)


@pytest.mark.parametrize("halt_from", [0, 6, 9])
def test_a_halted_feeder_moves_nothing(halt_from):
    loads = Loads.random(THREE, np.random.default_rng(85), 6)
    played = play(THREE, loads, 60, halt_from=halt_from)
    moved = [*played.words.taken, *(cycle for sink in (*played.commands, *played.beats) for cycle in sink.cycles)]
    assert all(cycle < halt_from for cycle in moved)
    assert not any(played.stalled[halt_from:])


@pytest.mark.parametrize("config", SEVERAL_WORDS.values(), ids=SEVERAL_WORDS)
@pytest.mark.parametrize("more", [1, -1])
def test_more_or_fewer_words_than_the_tile_takes_are_an_error(config, more):
    rng = np.random.default_rng(86)
    loads = Loads.random(config, rng, 1, rows=config.macro.rows)
    loads.words = [word & ((1 << config.weight_bus) - 1) for word in loads.words] + [0, 0]
    # The field `words` begins word 2 of the instruction.
    loads.instructions[0] += more << 64
    played = play(config, loads, 8 * len(loads.words) + 60)
    assert next(filter(None, played.errors)) == AcceleratorError.WORDS


def test_a_last_inside_an_image_is_an_error():
    loads = Loads.random(THREE, np.random.default_rng(87), 1, rows=2)
    assert len(loads.words) > 1
    loads.words[0] |= 1 << THREE.weight_bus
    played = play(THREE, loads, 60)
    assert next(filter(None, played.errors)) == AcceleratorError.WEIGHTS_LAST
