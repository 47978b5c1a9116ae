"""The slot format against a slow reference, written from docs/architecture.md, section 2, block by block."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flexcim.config.macro import PRESETS
from flexcim.config.pattern import Pattern
from flexcim.packed.slots import SlotError, decode_slots, encode_slots
from tests.support.sparse_weights import random_weights

MENU = sorted({pattern for config in PRESETS.values() for pattern in config.patterns})
ODD_PATTERNS = [Pattern(3, 7), Pattern(1, 256), Pattern(64, 319), Pattern(5, 6)]
for_each_pattern = pytest.mark.parametrize("pattern", MENU + ODD_PATTERNS, ids=str)


def reference_slots(block, pattern):
    """Weights and offsets of one block's slots; the block may be shorter than m."""
    positions = [p for p, weight in enumerate(block) if weight != 0]
    for p in range(pattern.m):
        if len(positions) < pattern.n and p not in positions:
            positions.append(p)
    positions.sort()
    padded = [*block, *[0] * (pattern.m - len(block))]
    return [padded[p] for p in positions], [p - k for k, p in enumerate(positions)]


def reference_encode(weights, pattern):
    outputs, inputs = weights.shape
    slots = [
        [reference_slots(weights[output, start : start + pattern.m].tolist(), pattern) for output in range(outputs)]
        for start in range(0, inputs, pattern.m)
    ]
    both = np.array(slots, int).reshape(len(slots), outputs, 2, pattern.n).transpose(2, 1, 0, 3)
    return both[0], both[1]


def check(weights, pattern):
    values, offsets = encode_slots(weights, pattern)
    assert values.dtype == np.int8
    assert offsets.dtype == np.uint8
    expected_values, expected_offsets = reference_encode(weights, pattern)
    np.testing.assert_array_equal(values, expected_values)
    np.testing.assert_array_equal(offsets, expected_offsets)
    decoded = decode_slots(values, offsets, pattern, weights.shape[1])
    assert decoded.dtype == np.int8
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, weights)
    return values, offsets


# --- The canonical form ----------------------------------------------------------------------------------------------


@for_each_pattern
@pytest.mark.parametrize("fill", [0, 0.5, 1])
def test_random_weights(pattern, fill):
    rng = np.random.default_rng(pattern.m)
    # One whole block, several, and every kind of remainder (a few of them where blocks are wide).
    for inputs in {pattern.m, 3 * pattern.m, *range(1, 2 * pattern.m, 1 if pattern.m < 32 else 150)}:
        check(random_weights(rng, 5, inputs, pattern, fill=fill), pattern)


@for_each_pattern
def test_the_canonical_form_is_sorted_and_legal(pattern):
    weights = random_weights(np.random.default_rng(1), 8, 5 * pattern.m + 1, pattern)
    values, offsets = encode_slots(weights, pattern)
    assert values.shape == offsets.shape == (8, 6, pattern.n)
    assert offsets.max() <= pattern.max_offset
    assert (np.diff(offsets.astype(int), axis=2) >= 0).all()


@pytest.mark.parametrize(
    ("block", "values", "offsets"),
    [
        ([0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]),
        ([0, 0, 0, 0, 1, 2, 3, 4], [1, 2, 3, 4], [4, 4, 4, 4]),
        ([1, 2, 3, 4, 0, 0, 0, 0], [1, 2, 3, 4], [0, 0, 0, 0]),
        ([0, 0, 0, 0, 0, 0, 0, -128], [0, 0, 0, -128], [0, 0, 0, 4]),
        ([0, 0, 127, 0, 0, -128, 0, 0], [0, 0, 127, -128], [0, 0, 0, 2]),
        ([5, 0, 0, 6, 0, 0, 0, 7], [5, 0, 6, 7], [0, 0, 1, 4]),
        ([9], [9, 0, 0, 0], [0, 0, 0, 0]),
        ([0, 0, 8], [0, 0, 8, 0], [0, 0, 0, 0]),
        ([0, 0, 0, 0, 0, 8], [0, 0, 0, 8], [0, 0, 0, 2]),
    ],
)
def test_blocks_that_were_worked_out_by_hand(block, values, offsets):
    encoded = encode_slots(np.array([block], np.int8), Pattern(4, 8))
    assert [array[0, 0].tolist() for array in encoded] == [values, offsets]


@pytest.mark.parametrize("extreme", [-128, 127])
def test_extreme_weights_in_every_position(extreme):
    for pattern in (Pattern(4, 8), Pattern(2, 4), Pattern(1, 1)):
        check((np.eye(pattern.m) * extreme).astype(np.int8), pattern)


def test_dense_slots_are_the_weights():
    weights = random_weights(np.random.default_rng(2), 3, 7, Pattern(1, 1))
    values, offsets = check(weights, Pattern(1, 1))
    np.testing.assert_array_equal(values[:, :, 0], weights)
    assert not offsets.any()
    values[:] = 0
    assert weights.any(), "the slots must be a copy"


@pytest.mark.parametrize("shape", [(0, 16), (3, 0), (0, 0)])
def test_empty_matrices(shape):
    for pattern in (Pattern(1, 1), Pattern(4, 8)):
        check(np.zeros(shape, np.int8), pattern)


def test_many_blocks_and_any_memory_order():
    pattern = Pattern(2, 4)
    block = random_weights(np.random.default_rng(3), 7, 100, pattern)
    weights = np.asfortranarray(np.tile(block, (50, 10)))
    values, offsets = encode_slots(weights, pattern)
    expected_values, expected_offsets = reference_encode(block, pattern)
    np.testing.assert_array_equal(values, np.tile(expected_values, (50, 10, 1)))
    np.testing.assert_array_equal(offsets, np.tile(expected_offsets, (50, 10, 1)))
    np.testing.assert_array_equal(decode_slots(values, offsets, pattern, 1000), weights)


@pytest.mark.parametrize("pattern", [pattern for pattern in MENU + ODD_PATTERNS if not pattern.is_dense], ids=str)
def test_a_block_that_holds_too_many_is_named(pattern):
    weights = random_weights(np.random.default_rng(4), 6, 3 * pattern.m + 1, pattern)
    weights[4, 2 * pattern.m : 2 * pattern.m + pattern.n + 1] = 1
    weights[5] = 1
    count = int(np.count_nonzero(weights[4, 2 * pattern.m : 3 * pattern.m]))
    message = f"output 4, block 2 holds {count} non-zero weights, but pattern {pattern} keeps at most n = {pattern.n}"
    with pytest.raises(SlotError, match=f"^{re.escape(message)}$"):
        encode_slots(weights, pattern)


def test_the_place_is_right_far_into_a_matrix():
    weights = np.zeros((300, 4000), np.int8)
    weights[237, 3200:3203] = -1
    with pytest.raises(SlotError, match="output 237, block 800 holds 3 non-zero weights"):
        encode_slots(weights, Pattern(2, 4))


@pytest.mark.parametrize("weights", [np.zeros((2, 4), np.int16), np.zeros((2, 4)), np.zeros(4, np.int8)])
def test_weights_of_the_wrong_kind_are_refused(weights):
    with pytest.raises(TypeError, match=r"weights must be int8 \[outputs, inputs\], not"):
        encode_slots(weights, Pattern(2, 4))


def test_offsets_that_need_more_than_a_byte_are_refused():
    pattern = Pattern(1, 257)
    message = "pattern 1:257 needs offsets up to 256, but a stored offset has 8 bits"
    with pytest.raises(SlotError, match=message):
        encode_slots(np.zeros((1, 257), np.int8), pattern)
    with pytest.raises(SlotError, match=message):
        decode_slots(np.zeros((1, 1, 1), np.int8), np.zeros((1, 1, 1), np.uint8), pattern, 257)


# --- Decoding --------------------------------------------------------------------------------------------------------


@for_each_pattern
def test_any_legal_offsets_are_decoded(pattern):
    """Slots on one position add up, as their products do in the hardware."""
    rng = np.random.default_rng(5)
    shape = (6, 4, pattern.n)
    limit = max(1, 127 // pattern.n)  # so that no sum leaves int8
    values = rng.integers(-limit, limit, size=shape, endpoint=True, dtype=np.int8)
    offsets = rng.integers(0, pattern.max_offset, size=shape, endpoint=True, dtype=np.uint8)
    expected = np.zeros((6, 4 * pattern.m), int)
    for (output, block, k), offset in np.ndenumerate(offsets):
        expected[output, block * pattern.m + k + int(offset)] += values[output, block, k]
    np.testing.assert_array_equal(decode_slots(values, offsets, pattern, 4 * pattern.m), expected)


def slots(values: Any, offsets: Any) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
    return np.array([values], np.int8), np.array([offsets], np.uint8)


def test_slots_on_one_position_add_up():
    # Offsets 1 and 0 both name position 1.
    decoded = decode_slots(*slots([[100, 27]], [[1, 0]]), Pattern(2, 4), 4)
    assert decoded.tolist() == [[0, 127, 0, 0]]
    decoded = decode_slots(*slots([[-100, -28]], [[2, 1]]), Pattern(2, 4), 4)
    assert decoded.tolist() == [[0, 0, -128, 0]]


@pytest.mark.parametrize(("pair", "total"), [((100, 28), 128), ((-100, -29), -129)])
def test_a_sum_that_does_not_fit_is_refused(pair, total):
    message = f"output 0, block 1, position 2: weights on one position add up to {total}, which does not fit int8"
    with pytest.raises(SlotError, match=message):
        decode_slots(*slots([[1, 1], pair], [[0, 0], [2, 1]]), Pattern(2, 4), 8)


def test_an_illegal_offset_is_refused():
    values, offsets = np.zeros((3, 2, 4), np.int8), np.zeros((3, 2, 4), np.uint8)
    offsets[1, 1, 2] = 5
    offsets[2, 0, 0] = 255
    message = "output 1, block 1, slot 2 has offset 5, but pattern 4:8 reaches only m - n = 4"
    with pytest.raises(SlotError, match=message):
        decode_slots(values, offsets, Pattern(4, 8), 16)


def test_a_weight_past_the_last_input_is_refused():
    with pytest.raises(SlotError, match="output 0 has weight 7 at input 6, but the layer has only 5 inputs"):
        decode_slots(*slots([[1, 1], [3, 7]], [[0, 0], [0, 1]]), Pattern(2, 4), 5)


@pytest.mark.parametrize(
    ("values", "offsets", "name"),
    [
        (np.zeros((2, 2, 2), np.int16), np.zeros((2, 2, 2), np.uint8), "values"),
        (np.zeros((2, 2, 2), np.int8), np.zeros((2, 2, 2), np.int8), "offsets"),
        (np.zeros((2, 3, 2), np.int8), np.zeros((2, 3, 2), np.uint8), "values"),
        (np.zeros((2, 2, 1), np.int8), np.zeros((2, 2, 2), np.uint8), "values"),
        (np.zeros((2, 2, 2), np.int8), np.zeros((1, 2, 2), np.uint8), "offsets"),
        (np.zeros((2, 4), np.int8), np.zeros((2, 2, 2), np.uint8), "values"),
    ],
)
def test_slots_of_the_wrong_kind_are_refused(values, offsets, name):
    with pytest.raises(TypeError, match=rf"{name} of 7 inputs at 2:4 must be u?int8 \[outputs, 2, 2\], not"):
        decode_slots(values, offsets, Pattern(2, 4), 7)
