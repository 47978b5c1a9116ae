"""The result buffer: vectors of every number of groups in, beats out, whatever the other side does."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from flexcim.config.macro import SUM_BITS
from flexcim.macro.cycles import result_entries
from flexcim_hw.macro.merging import max_groups
from flexcim_hw.macro.result_buffer import ResultBuffer, ResultLane
from tests.support.simulation import CONFIGS, latency, pack, simulate, trace

MENUS = {**CONFIGS, "a beat holds all": replace(CONFIGS["serial"], result_port=16)}
for_each_config = pytest.mark.parametrize("config", MENUS.values(), ids=MENUS)


@dataclass
class Entry:
    """A vector's results and its beats: elements, number, whether it is the last, tag."""

    groups: int
    tag: int
    results: list[int]
    beats: list[tuple[int, int, int, int]]


def random_entry(config, rng, buffer):
    groups = int(rng.choice(sorted({groups for _, groups in config.modes})))
    tag = int(rng.integers(1 << len(buffer.tag)))
    # Outputs past G * C hold anything.
    results = rng.integers(-(1 << 31), 1 << 31, max_groups(config) * config.columns).tolist()
    count = config.result_beats(groups)
    sent = results[: config.tile_outputs(groups)]
    sent += [0] * (count * config.result_port - len(sent))
    beats = [
        (
            pack(sent[beat * config.result_port : (beat + 1) * config.result_port], SUM_BITS),
            beat,
            int(beat == count - 1),
            tag,
        )
        for beat in range(count)
    ]
    return Entry(groups, tag, results, beats)


def write_of(config, entry):
    return {
        "write": 1,
        # The port has the groups of each column side by side.
        "results": pack(np.reshape(entry.results, (-1, config.columns)).T, SUM_BITS),
        "tag": entry.tag,
        "groups": entry.groups.bit_length() - 1,
    }


@for_each_config
def test_beats_follow_each_other_without_a_gap(config):
    """As many vectors as there are entries, written one a cycle, leave in one piece from the cycle after the first."""
    rng = np.random.default_rng(13)
    buffer = ResultBuffer(config)
    entries = [random_entry(config, rng, buffer) for _ in range(result_entries(config))]
    beats = [beat for entry in entries for beat in entry.beats]
    stimulus = [write_of(config, entry) | {"ready": 1} for entry in entries]
    outputs = ["valid", "elements", "beat", "last", "beat_tag", "freed"]
    seen = trace(buffer, [*stimulus, {"write": 0}], outputs, extra=len(beats) + 2)
    expected = [(1, *beat, beat[2]) for beat in beats]
    assert latency(seen, expected, ResultLane.interval) == buffer.latency == ResultLane.latency == 1
    assert [len(entry.beats) for entry in entries] == [buffer.interval(entry.groups) for entry in entries]
    assert sum(valid for valid, *_ in seen) == len(beats)
    assert sum(freed for *_, freed in seen) == len(entries)


@for_each_config
@pytest.mark.parametrize("taken", [1.0, 0.5, 0.1])
def test_pauses_lose_and_repeat_nothing(config, taken):
    rng = np.random.default_rng(14)
    buffer = ResultBuffer(config)
    entries = [random_entry(config, rng, buffer) for _ in range(20)]
    beats = [beat for entry in entries for beat in entry.beats]
    got: list[tuple[int, ...]] = []
    most = 0

    async def bench(ctx):
        nonlocal most
        written = freed = 0
        while len(got) < len(beats):
            room = written - freed < result_entries(config)
            write = written < len(entries) and room and rng.random() < 0.7
            ctx.set(buffer.write, write)
            if write:
                for name, value in write_of(config, entries[written]).items():
                    ctx.set(getattr(buffer, name), value)
            ready = int(rng.random() < taken)
            ctx.set(buffer.ready, ready)
            valid = ctx.get(buffer.valid)
            assert valid == (written > freed)
            beat = tuple(ctx.get(getattr(buffer, name)) for name in ("elements", "beat", "last", "beat_tag"))
            # What is offered is the next beat from the first cycle on, so it stays until it is taken.
            assert not valid or beat == beats[len(got)]
            assert ctx.get(buffer.freed) == (valid & ready & beat[2])
            await ctx.tick()
            written += write
            most = max(most, written - freed)
            if valid and ready:
                got.append(beat)
                freed += beat[2]

    simulate(buffer, bench)
    assert got == beats
    assert taken == 1.0 or most == result_entries(config)
