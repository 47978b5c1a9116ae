"""The result merger: results leave by run, by vector, by macro, whenever the macros have them."""

from __future__ import annotations

import numpy as np
import pytest

from flexcim.accelerator.instructions import Opcode
from flexcim_hw.accelerator.result_merger import ResultMerger
from tests.support.accelerators import ACCELERATORS
from tests.support.instructions import instruction, pausing, random_bits
from tests.support.simulation import Sink, Source, exchange, exchange_all, simulate

for_each_accelerator = pytest.mark.parametrize("config", ACCELERATORS.values(), ids=ACCELERATORS)
THREE = ACCELERATORS["three macros, narrow buses"]


class Runs:
    """Random runs with results: instructions, the macros' beats, and the bytes of each packet."""

    def __init__(self, config, rng, shapes):
        """``shapes`` has macros, vectors, beats of a vector, and whether the packet ends, of each run."""
        bits = config.result_beat_bits
        self.instructions = []
        self.beats: list[list[int]] = [[] for _ in range(config.macros)]
        self.packets: list[bytes] = []
        packet = b""
        for macros, vectors, beats, end_packet in shapes:
            mask = sum(1 << macro for macro in macros)
            self.instructions.append(
                instruction(Opcode.RUN, macros=mask, vectors=vectors, last_k=1, end_packet=int(end_packet))
            )
            for _ in range(vectors):
                for macro in sorted(macros):
                    for beat in range(beats):
                        elements = random_bits(rng, bits)
                        self.beats[macro].append(elements | (beat == beats - 1) << bits)
                        packet += elements.to_bytes(bits // 8, "little")
            if end_packet:
                self.packets.append(packet)
                packet = b""

    @classmethod
    def random(cls, config, rng, count):
        shapes = []
        for index in range(count):
            macros = [macro for macro in range(config.macros) if rng.random() < 0.6] or [
                int(rng.integers(config.macros))
            ]
            vectors, beats = int(rng.integers(1, 4)), int(rng.integers(1, 3))
            shapes.append((macros, vectors, beats, index == count - 1 or rng.random() < 0.4))
        return cls(config, rng, shapes)


def play(config, runs, cycles, pause=lambda: False):
    """Returns the merger, the ends of its streams, and idle and stalled of each cycle."""
    merger = ResultMerger(config)
    source = Source(merger.instructions, runs.instructions, pause)
    macros = [Source(stream, beats, pause) for stream, beats in zip(merger.results, runs.beats, strict=True)]
    sink = Sink(merger.words, pause)
    states = []

    async def bench(ctx):
        def look(_):
            states.append((ctx.get(merger.idle), ctx.get(merger.stalled)))

        await exchange_all(ctx, [source, *macros, sink], cycles, look)

    simulate(merger, bench)
    return merger, source, macros, sink, states


def packets(config, payloads):
    """The bytes of each packet."""
    width, got = config.result_bus, [b""]
    for payload in payloads:
        keep, last = payload >> width & ((1 << width // 8) - 1), payload >> (width + width // 8)
        got[-1] += (payload & ((1 << width) - 1)).to_bytes(width // 8, "little")[: keep.bit_length()]
        if last:
            got.append(b"")
    assert got.pop() == b""
    return got


@for_each_accelerator
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_results_leave_by_run_by_vector_by_macro(config, share):
    rng = np.random.default_rng(101)
    runs = Runs.random(config, rng, 8)
    total = sum(map(len, runs.packets)) * 8 // config.result_bus + sum(map(len, runs.beats))
    _, source, macros, sink, states = play(config, runs, 4 * total + 100, pausing(rng, share))
    assert packets(config, sink.payloads) == runs.packets
    assert source.exhausted
    assert all(macro.exhausted for macro in macros)
    busy = range(source.taken[0] + 1, sink.cycles[-1] + 1)
    # With words under way it is busy, whether a run waits or not.
    assert all(not idle for cycle, (idle, _) in enumerate(states) if cycle in busy and cycle in sink.cycles)
    assert [idle for idle, _ in states[sink.cycles[-1] + 1 :]] == [1] * (len(states) - sink.cycles[-1] - 1)
    assert share or not any(stalled for _, stalled in states)


@for_each_accelerator
def test_packets_follow_each_other_in_their_interval(config):
    """A beat a cycle without a gap between macros and vectors, and a word `latency` cycles after its beat."""
    rng = np.random.default_rng(102)
    every = list(range(config.macros))
    runs = Runs(config, rng, [(every, 2, 2, True)] * 3)
    count = 2 * 2 * config.macros
    total = sum(map(len, runs.packets)) * 8 // config.result_bus + sum(map(len, runs.beats))
    merger, _, macros, sink, _ = play(config, runs, 2 * total + 60)
    taken = sorted(cycle for macro in macros for cycle in macro.taken)
    assert np.diff(taken[::count]).tolist() == [merger.interval(count)] * 2
    needed = -(-config.result_bus // config.result_beat_bits)
    if count >= needed:
        assert sink.cycles[0] == taken[needed - 1] + merger.latency


def test_a_macro_waits_for_its_turn():
    """The lowest macro of a run comes first, even if it is the last to have something."""
    merger = ResultMerger(THREE)
    last = 1 << THREE.result_beat_bits
    source = Source(merger.instructions, [instruction(Opcode.RUN, macros=0b101, vectors=1, last_k=1, end_packet=1)])
    late = iter([True] * 10 + [False] * 50)
    macros = [
        Source(merger.results[0], [last], lambda: next(late)),
        Source(merger.results[1], [last]),
        Source(merger.results[2], [last]),
    ]

    async def bench(ctx):
        ctx.set(merger.words.ready, 1)
        for cycle in range(40):
            exchange(ctx, [source, *macros], cycle)
            await ctx.tick()

    simulate(merger, bench)
    # The converter has room for the second beat once words of the first have left.
    assert macros[0].taken == [10]
    assert macros[2].taken[0] > 10
    assert macros[1].taken == []  # not of this run


def test_so_many_runs_wait_and_no_more_and_a_word_that_waits_is_a_stall():
    runs = Runs(THREE, np.random.default_rng(103), [([0], 1, 1, True)] * (THREE.run_queue + 3))
    blocked = ResultMerger(THREE)
    source = Source(blocked.instructions, runs.instructions)
    macro = Source(blocked.results[0], runs.beats[0])
    stalled = []

    async def bench(ctx):
        for cycle in range(40):
            exchange(ctx, [source, macro], cycle)
            stalled.append(ctx.get(blocked.stalled))
            await ctx.tick()

    simulate(blocked, bench)
    # The first run's beat is in the converter, and its packet does not leave.
    assert len(source.taken) == THREE.run_queue + 1
    assert macro.taken == [1]
    assert stalled == [0, 0] + [1] * 38
