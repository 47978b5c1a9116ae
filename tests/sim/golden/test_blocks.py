"""Each block of the golden model against the sentences of docs/architecture.md, section 3."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.random import Generator

from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.errors import FlexCiMError
from flexcim_sim.golden.accumulator import SumMemory, shift_add
from flexcim_sim.golden.activation_buffer import windows
from flexcim_sim.golden.distribution import bases, lanes, slices
from flexcim_sim.golden.macro import tile_sums
from flexcim_sim.golden.merging import taps
from flexcim_sim.golden.requantizer import requantize
from flexcim_sim.golden.sub_macro import column_sums

SMALL = MacroConfig(rows=4, columns=3, result_port=4)


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(11)


# --- Activation buffer -----------------------------------------------------------------------------------------------


def test_a_beat_carries_whole_windows(rng):
    # w = 8 in a port of 20: two windows to a beat, not the three that would not divide R = 4.
    config = MacroConfig.from_mapping({"activation_port": 20}, base=SMALL)
    beats = rng.integers(-128, 128, (3, 2, 20)).astype(np.int8)
    held = windows(config, Pattern(4, 8), 1, 3, beats)
    assert held.shape == (3, 4, 8)
    assert (held[:, 0] == beats[:, 0, :8]).all()
    assert (held[:, 1] == beats[:, 0, 8:16]).all()
    assert (held[:, 2] == beats[:, 1, :8]).all()
    assert not held[:, 3].any(), "rows past those of the run read as zero"


def test_a_wide_window_takes_several_beats(rng):
    config = MacroConfig.from_mapping({"activation_port": 3}, base=SMALL)
    beats = rng.integers(-128, 128, (2, 2 * 3, 3)).astype(np.int8)  # w = 8: 3 + 3 + 2 elements
    held = windows(config, Pattern(4, 8), 1, 2, beats)
    for row in range(2):
        assert (held[:, row] == beats[:, 3 * row : 3 * row + 3].reshape(2, -1)[:, :8]).all()


def test_beats_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="has 1 beats of 64 elements, but the beats have the shape"):
        windows(SMALL, Pattern(4, 8), 1, 4, np.zeros((1, 2, 64), np.int8))


# --- Distribution ----------------------------------------------------------------------------------------------------


def test_bases_follow_block_and_slot():
    config = MacroConfig(sub_macros=8)
    assert bases(config, Pattern(2, 4), 1).tolist() == [0, 1, 4, 5, 8, 9, 12, 13]
    assert bases(config, Pattern(2, 4), 2).tolist() == [0, 1, 4, 5, 0, 1, 4, 5]
    assert bases(config, Pattern(1, 1), 1).tolist() == list(range(8))


@pytest.mark.parametrize("width", [1, 2, 3, 8])
def test_over_all_phases_a_sub_macro_sees_its_candidates_once(width, rng):
    config = MacroConfig.from_mapping({"lanes": width}, base=SMALL)
    for pattern, groups in config.modes:
        held = rng.integers(-128, 128, (2, 4, config.window(pattern, groups))).astype(np.int32)
        carried = [lanes(config, pattern, groups, phase, held) for phase in range(config.phases(pattern))]
        seen = np.concatenate(carried, axis=3)
        for sub_macro, base in enumerate(bases(config, pattern, groups)):
            reach = pattern.max_offset + 1
            assert (seen[:, :, sub_macro, :reach] == held[:, :, base : base + reach]).all()
            assert not seen[:, :, sub_macro, reach:].any()


@pytest.mark.parametrize(("activation_bits", "bits_per_cycle"), [(8, 1), (8, 2), (8, 4), (8, 8), (6, 3), (2, 1)])
def test_slices_put_together_are_the_activation(activation_bits, bits_per_cycle):
    config = MacroConfig.from_mapping(
        {"activation_bits": activation_bits, "bits_per_cycle": bits_per_cycle}, base=SMALL
    )
    values = np.arange(-(1 << (activation_bits - 1)), 1 << (activation_bits - 1), dtype=np.int32)
    parts = slices(config, values)
    assert len(parts) == config.slices
    assert parts[0].min() == -(1 << (bits_per_cycle - 1)), "the first slice is signed"
    assert parts[1:].min(initial=0) == 0, "the others are not"
    assert (shift_add(config, parts[:, None].astype(np.int64)) == values).all()


# --- Sub-macros ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 3, 8])
def test_column_sums_are_those_of_the_cells(width, rng):
    config = MacroConfig.from_mapping({"lanes": width}, base=SMALL)
    weights = rng.integers(-128, 128, (4, 4, 3)).astype(np.int8)
    offsets = rng.integers(0, 8, (4, 4, 3)).astype(np.uint8)
    carried = rng.integers(-128, 128, (2, 4, 4, width)).astype(np.int32)
    for phase in range(2):
        expected = np.zeros((2, 4, 3), np.int64)
        for row, sub_macro, column in np.ndindex(4, 4, 3):
            offset, weight = int(offsets[row, sub_macro, column]), int(weights[row, sub_macro, column])
            if offset // width == phase:
                expected[:, sub_macro, column] += weight * carried[:, row, sub_macro, offset % width]
        assert (column_sums(config, phase, carried, weights, offsets) == expected).all()


def test_bit_serial_issue_gives_the_sums_of_whole_activations(rng):
    for bits_per_cycle, width in itertools.product([1, 2, 4, 8], [1, 2, 3, 8]):
        config = MacroConfig.from_mapping({"lanes": width, "bits_per_cycle": bits_per_cycle}, base=SMALL)
        pattern, groups = config.modes[rng.integers(len(config.modes))]
        weights = rng.integers(-128, 128, (4, 4, 3)).astype(np.int8)
        offsets = rng.integers(0, pattern.max_offset + 1, (4, 4, 3)).astype(np.uint8)
        beats_per_vector = config.vector_beats(config.window(pattern, groups), 4)
        beats = rng.choice([-128, -1, 0, 77, 127], (5, beats_per_vector, 64)).astype(np.int8)
        held = windows(config, pattern, groups, 4, beats)
        issued = [
            [
                taps(config, column_sums(config, t, lanes(config, pattern, groups, t, part), weights, offsets))[groups]
                for t in range(config.phases(pattern))
            ]
            for part in slices(config, held)
        ]
        expected = tile_sums(config, pattern, groups, 4, beats, weights, offsets)
        assert (shift_add(config, np.array(issued)) == expected).all()


# --- Merging and accumulator -----------------------------------------------------------------------------------------


def test_each_tap_sums_aggregated_sub_macros(rng):
    config = MacroConfig(sub_macros=8, columns=3, result_port=1)
    sums = rng.integers(-1000, 1000, (2, 8, 3))
    tree = taps(config, sums)
    assert sorted(tree) == [1, 2, 4, 8]
    for groups, merged in tree.items():
        assert (merged == sums.reshape(2, groups, 8 // groups, 3).sum(axis=2)).all()


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_memory_holds_vectors_in_banks(groups, rng):
    config = MacroConfig(columns=3, rows=4, accumulator_depth=16, result_port=1)
    memory = SumMemory(config)
    vectors = 16 // groups
    first, second, third = (rng.integers(-1000, 1000, (vectors, groups, 3)) for _ in range(3))
    memory.accumulate(first, first_k=True, last_k=False)
    for vector, group in np.ndindex(vectors, groups):
        word = vector * groups + group
        assert (memory.banks[word % 4, word // 4] == first[vector, group]).all()
    assert (memory.accumulate(third, first_k=True, last_k=True) == third).all(), "one K tile bypasses the memory"
    memory.accumulate(second, first_k=False, last_k=False)
    assert (memory.accumulate(third, first_k=False, last_k=True) == first + second + third).all()


def test_sums_that_leave_32_bits_are_refused():
    memory = SumMemory(SMALL)
    memory.accumulate(np.full((1, 1, 3), (1 << 31) - 1), first_k=True, last_k=False)
    with pytest.raises(FlexCiMError, match="a sum of 2147483648 leaves the accumulator's 32 bits"):
        memory.accumulate(np.ones((1, 1, 3), np.int64), first_k=False, last_k=True)


# --- Requantizer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation_bits", [2, 5, 8])
def test_requantizing_rounds_half_up_and_clamps(activation_bits, rng):
    config = MacroConfig.from_mapping({"activation_bits": activation_bits, "requantizer": True}, base=SMALL)
    extremes = [-(1 << 31), -(1 << 31) + 1, -1, 0, 1, (1 << 31) - 1]
    sums = np.array([*extremes, *rng.integers(-(1 << 31), 1 << 31, 40), *rng.integers(-200, 200, 40)], np.int32)
    for shift in range(48):
        for mult in (0, 1, 3, 40_000, 65_535, (1 << shift) % 65_536):
            constants = np.full(len(sums), mult, np.uint16), np.full(len(sums), shift, np.uint8)
            found = requantize(config, sums[None], *constants)[0]
            half = 1 << shift >> 1  # 0 for shift 0
            low, high = -(1 << (activation_bits - 1)), (1 << (activation_bits - 1)) - 1
            expected = [min(high, max(low, (int(value) * mult + half) >> shift)) for value in sums]
            assert found.tolist() == expected, f"shift {shift}, mult {mult}"


@pytest.mark.parametrize(("value", "rounded"), [(3, 2), (1, 1), (-1, 0), (-3, -1), (-5, -2), (5, 3)])
def test_halves_are_rounded_up(value, rounded):
    config = MacroConfig.from_mapping({"requantizer": True}, base=SMALL)
    one, by_two = np.ones(1, np.uint16), np.ones(1, np.uint8)
    assert requantize(config, np.array([[value]], np.int32), one, by_two) == rounded
