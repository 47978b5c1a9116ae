"""The requantizer against its golden twin, with pauses and back-pressure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from flexcim.config.macro import SUM_BITS, MacroConfig
from flexcim.macro.beats import MULT_BITS, SHIFT_BITS, constant_beats, constant_payloads
from flexcim_hw.macro.merging import max_groups
from flexcim_hw.macro.requantizer import Requantizer, RequantizerLane
from flexcim_sim.golden.requantizer import requantize
from tests.support.simulation import CONFIGS, instance, latency, pack, simulate, trace, unpack

CONFIG = CONFIGS["half parallel, requantized"]
MENUS = {
    "half parallel": CONFIG,
    "three banks": replace(CONFIG, banks=3, activation_bits=4, result_port=8),
    "one bank, one beat": instance(
        "1:1", sub_macros=1, rows=1, columns=2, banks=1, result_port=2, requantizer=True, activation_bits=2
    ),
}
EXTREMES = np.array([-(1 << 31), (1 << 31) - 1, -1, 0, 1], np.int64)


def random_sums(rng, count):
    """Sums of every magnitude, the extremes among them."""
    sums = rng.integers(-(1 << 31), 1 << 31, count) >> rng.integers(0, 32, count)
    return np.where(rng.random(count) < 0.2, rng.choice(EXTREMES, count), sums).astype(np.int32)


def random_constants(rng, count):
    """Multipliers and shifts, the extremes among them."""
    mult = rng.integers(0, 1 << MULT_BITS, count).astype(np.uint16)
    mult[rng.random(count) < 0.2] = (1 << MULT_BITS) - 1
    return mult, rng.choice([0, 1, 2, 15, 16, 31, 40, 46, 47], count).astype(np.uint8)


def reference(total, mult, shift, bits):
    """Section 3, block 6, in Python's integers."""
    half = 1 << (shift - 1) if shift else 0
    return max(-(1 << (bits - 1)), min((total * mult + half) >> shift, (1 << (bits - 1)) - 1))


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_a_lane_scales_rounds_and_clamps(bits):
    config = MacroConfig(activation_bits=bits)
    rng = np.random.default_rng(10)
    count = 600
    sums, (mult, shift) = random_sums(rng, count), random_constants(rng, count)
    shift[: SHIFT_BITS * 8] = np.arange(SHIFT_BITS * 8)  # each of 0 ... 47
    # Just at and below a half, where rounding decides.
    for index, by in enumerate(range(1, 40, 3)):
        at = 100 + 2 * index
        shift[at : at + 2], mult[at : at + 2] = by, 1 << min(by, 15) >> 1
        sums[at] = 1 << max(by - 15, 0)
        sums[at + 1] = sums[at] - 1
    enable = rng.random(count) < 0.8
    expected = [
        reference(total, by, down, bits) if enabled else total
        for total, by, down, enabled in zip(sums.tolist(), mult.tolist(), shift.tolist(), enable, strict=True)
    ]
    golden = requantize(config, sums[np.newaxis], mult, shift)[0]
    assert (golden[enable] == np.array(expected)[enable]).all()

    lane = RequantizerLane(config)
    stimulus = [
        {"element": int(total), "multiplier": int(m), "shift": int(s), "enable": int(e), "advance": 0b11}
        for total, m, s, e in zip(sums, mult, shift, enable, strict=True)
    ]
    seen = [result for (result,) in trace(lane, stimulus, ["result"], extra=4)]
    assert latency(seen, expected, lane.interval) == lane.latency == 2


@dataclass
class Beat:
    """A beat before the lanes and what has to leave for it."""

    elements: list[int]
    last: int
    beat: int
    bank: int
    enable: int
    expected: list[int]


def random_beats(config, rng, constants, count):
    """Beats of vectors with these constants of the banks, some of them not requantized."""
    size = config.result_beats(max_groups(config)) * config.result_port
    beats: list[Beat] = []
    while len(beats) < count:
        bank, enable = int(rng.integers(config.banks)), int(rng.random() < 0.8)
        sums = random_sums(rng, size)
        results = requantize(config, sums[np.newaxis], *constants[bank])[0] if enable else sums
        ends = int(rng.integers(1, size // config.result_port + 1))
        for beat in range(ends):
            part = slice(beat * config.result_port, (beat + 1) * config.result_port)
            beats.append(Beat(sums[part].tolist(), int(beat == ends - 1), beat, bank, enable, results[part].tolist()))
    return beats


def constant_writes(config, bank, constants):
    """The inputs of the cycles that write a bank's constants."""
    mask = (1 << config.result_port * (MULT_BITS + SHIFT_BITS)) - 1
    for beat, payload in enumerate(constant_payloads(config, *constant_beats(config, *constants))):
        yield {"write": 1, "write_bank": bank, "write_beat": beat, "write_constants": payload & mask}
    yield {"write": 0}


def all_constants(config, rng):
    size = config.result_beats(max_groups(config)) * config.result_port
    return [random_constants(rng, size) for _ in range(config.banks)]


@pytest.mark.parametrize("config", MENUS.values(), ids=MENUS)
def test_beats_follow_each_other_without_a_gap(config):
    rng = np.random.default_rng(11)
    constants = all_constants(config, rng)
    writes = [write for bank, pair in enumerate(constants) for write in constant_writes(config, bank, pair)]
    beats = random_beats(config, rng, constants, 60)
    stimulus = [
        {
            "elements": pack(beat.elements, SUM_BITS),
            "last": beat.last,
            "beat": beat.beat,
            "bank": beat.bank,
            "enable": beat.enable,
            "valid": 1,
            "out_ready": 1,
        }
        for beat in beats
    ]
    requantizer = Requantizer(config)
    seen = trace(requantizer, [*writes, *stimulus], ["out_valid", "out_elements", "out_last", "ready"], extra=3)
    assert all(ready for *_, ready in seen[len(writes) :])
    out = [(valid, elements, last) for valid, elements, last, _ in seen[len(writes) :]]
    expected = [(1, pack(beat.expected, SUM_BITS), beat.last) for beat in beats]
    assert latency(out, expected, requantizer.interval) == requantizer.latency == 2


@pytest.mark.parametrize("config", MENUS.values(), ids=MENUS)
@pytest.mark.parametrize(("offered", "taken"), [(1.0, 0.5), (0.5, 1.0), (0.6, 0.6), (1.0, 0.1)])
def test_pauses_lose_and_repeat_nothing(config, offered, taken):
    rng = np.random.default_rng(12)
    constants = all_constants(config, rng)
    beats = random_beats(config, rng, constants, 40)
    requantizer = Requantizer(config)
    left = list(beats)
    got = []

    async def bench(ctx):
        for bank, pair in enumerate(constants):
            for write in constant_writes(config, bank, pair):
                for name, value in write.items():
                    ctx.set(getattr(requantizer, name), value)
                await ctx.tick()
        held = None
        for _ in range(2000):
            # Once offered, a beat stays until it is taken.
            valid = bool(left) and (ctx.get(requantizer.valid) == 1 or rng.random() < offered)
            ctx.set(requantizer.valid, valid)
            if valid:
                ctx.set(requantizer.elements, pack(left[0].elements, SUM_BITS))
                for name in ("last", "beat", "bank", "enable"):
                    ctx.set(getattr(requantizer, name), getattr(left[0], name))
            ready = rng.random() < taken
            ctx.set(requantizer.out_ready, ready)
            out = None
            if ctx.get(requantizer.out_valid):
                out = ctx.get(requantizer.out_elements), ctx.get(requantizer.out_last)
            assert held is None or out == held, "a beat that was not taken must stay"
            if out and ready:
                got.append(out)
            held = None if ready else out
            accepted = valid and ctx.get(requantizer.ready)
            await ctx.tick()
            if accepted:
                left.pop(0)
                ctx.set(requantizer.valid, 0)
            if len(got) == len(beats):
                return

    simulate(requantizer, bench)
    unpacked = [(unpack(elements, SUM_BITS, config.result_port), last) for elements, last in got]
    assert unpacked == [(beat.expected, beat.last) for beat in beats]


def test_two_beats_are_taken_while_none_may_leave():
    stimulus = [{"valid": 1, "out_ready": 0}, *[{}] * 5, {"out_ready": 1}, {}]
    ready = [value for (value,) in trace(Requantizer(CONFIG), stimulus, ["ready"])]
    assert ready == [1, 1, 0, 0, 0, 0, 1, 1]
