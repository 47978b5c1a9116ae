"""The cells of a layer's tiles, against a slow reference of the placement."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from flexcim.config.macro import PRESETS
from flexcim.packed.cells import pack_layer, tile_activations, unpack_layer
from flexcim.packed.parts import TilingError
from flexcim.packed.slots import SlotError, encode_slots
from flexcim.packed.tiling import LayerTiling
from tests.flexcim.packed.test_tiling import SMALL, for_each_mode, make, shapes
from tests.support.sparse_weights import random_weights


def place(tiling, output, block, k):
    """Cell [tile, row, sub_macro, column] of a slot, as docs/architecture.md, section 2, says it."""
    n, m, G, C = tiling.pattern.n, tiling.pattern.m, tiling.groups, tiling.config.columns
    J = tiling.config.sub_macros // G
    output_tile, j = divmod(output, G * C)
    k_tile, first_input = divmod(block * m, tiling.config.rows * (J // n) * m)
    q = first_input // m * n + k
    h, c = divmod(j, C)
    return output_tile * tiling.k_tiles + k_tile, q // J, h * J + q % J, c


@for_each_mode
def test_each_slot_is_where_the_architecture_puts_it(pattern, groups):
    rng = np.random.default_rng(0)
    for outputs, inputs in shapes(pattern, groups):
        tiling = LayerTiling(SMALL, outputs, inputs, pattern, groups, "a test")
        matrix = random_weights(rng, outputs, inputs, pattern)
        values, slot_offsets = encode_slots(matrix, pattern)
        expected = np.zeros(tiling.packed_shape, np.int8), np.zeros(tiling.packed_shape, np.uint8)
        for output, block, k in np.ndindex(*values.shape):
            for array, slots in zip(expected, (values, slot_offsets), strict=True):
                array[place(tiling, output, block, k)] = slots[output, block, k]
        weights, offsets = pack_layer(tiling, matrix)
        assert weights.dtype == np.int8
        assert offsets.dtype == np.uint8
        assert weights.flags.c_contiguous
        assert offsets.flags.c_contiguous
        np.testing.assert_array_equal(weights, expected[0])
        np.testing.assert_array_equal(offsets, expected[1])
        for index, tile in enumerate(tiling.tiles):
            assert not weights[index, tile.rows :].any()
        np.testing.assert_array_equal(unpack_layer(tiling, weights, offsets), matrix)


@for_each_mode
def test_the_tiles_multiply_as_the_layer_does(pattern, groups):
    """What the hardware does with the cells (section 3): cell a of row r sees window[base(a) + offset]."""
    rng = np.random.default_rng(1)
    J = SMALL.sub_macros // groups
    window = SMALL.window(pattern, groups)
    a = np.arange(SMALL.sub_macros) % J
    base = a // pattern.n * pattern.m + a % pattern.n
    for outputs, inputs in shapes(pattern, groups):
        tiling = LayerTiling(SMALL, outputs, inputs, pattern, groups, "a test")
        matrix = random_weights(rng, outputs, inputs, pattern)
        activations = rng.integers(-128, 128, size=(3, inputs), dtype=np.int8)
        weights, offsets = pack_layer(tiling, matrix)
        sums = np.zeros((3, tiling.output_tiles, groups, SMALL.columns), int)
        for index, tile in enumerate(tiling.tiles):
            seen = tile_activations(tiling, tile, activations).astype(int)
            start = np.arange(tile.rows)[:, None, None] * window + base[:, None]
            products = seen[:, start + offsets[index, : tile.rows]] * weights[index, : tile.rows]
            of_groups = products.reshape(3, tile.rows, groups, J, SMALL.columns)
            sums[:, tile.output_tile] += of_groups.sum(axis=(1, 3))
        results = sums.reshape(3, -1)[:, :outputs]
        np.testing.assert_array_equal(results, activations.astype(int) @ matrix.T.astype(int))


@pytest.mark.parametrize("name", PRESETS)
def test_packing_loses_nothing_on_any_preset(name):
    config = PRESETS[name]
    rng = np.random.default_rng(2)
    for pattern, groups in config.modes:
        tiling = LayerTiling(config, 75, 100, pattern, groups, "a test")
        weights = random_weights(rng, 75, 100, pattern)
        np.testing.assert_array_equal(unpack_layer(tiling, *pack_layer(tiling, weights)), weights)


def test_weights_of_another_shape_are_refused():
    with pytest.raises(TilingError, match=re.escape("weights must be [5, 50], the tiling's shape, not [5, 49]")):
        pack_layer(make("2:4"), np.zeros((5, 49), np.int8))


def test_weights_that_break_the_pattern_are_refused():
    with pytest.raises(SlotError, match="output 0, block 0 holds 4 non-zero weights"):
        pack_layer(make("2:4"), np.ones((5, 50), np.int8))


@pytest.mark.parametrize("weight", [-9, 8])
def test_weights_that_do_not_fit_their_bits_are_refused(weight):
    tiling = make("1:1", config=replace(SMALL, weight_bits=4))
    weights = np.zeros((5, 50), np.int8)
    weights[0, :2] = -8, 7
    np.testing.assert_array_equal(unpack_layer(tiling, *pack_layer(tiling, weights)), weights)
    weights[3, 3] = weight
    with pytest.raises(TilingError, match=f"weights must fit 4 bits, -8 to 7, not {weight}"):
        pack_layer(tiling, weights)


def test_cells_of_another_shape_are_refused():
    weights, offsets = pack_layer(make("2:4"), np.zeros((5, 50), np.int8))
    shape = list(make("2:4").packed_shape)
    for name, cells in (("weights", (weights[1:], offsets)), ("offsets", (weights, offsets[:, :, :1]))):
        with pytest.raises(TilingError, match=re.escape(f"{name} must be {shape} for this tiling, not [")):
            unpack_layer(make("2:4"), *cells)


@pytest.mark.parametrize(("output", "block", "edge"), [(5, 0, "outputs"), (0, 13, "inputs")])
@pytest.mark.parametrize("array", ["weights", "offsets"])
def test_a_cell_past_the_edge_that_is_not_0_is_refused(output, block, edge, array):
    tiling = make("2:4")
    weights, offsets = pack_layer(tiling, np.zeros((5, 50), np.int8))
    {"weights": weights, "offsets": offsets}[array][place(tiling, output, block, 0)] = 2
    with pytest.raises(TilingError, match=f"{array} past the layer's {edge} must be 0, but one is 2"):
        unpack_layer(tiling, weights, offsets)


def test_an_illegal_offset_in_a_cell_is_refused():
    tiling = make("2:4")
    weights, offsets = pack_layer(tiling, np.zeros((5, 50), np.int8))
    offsets[place(tiling, 3, 7, 1)] = 3
    with pytest.raises(
        SlotError, match="output 3, block 7, slot 1 has offset 3, but pattern 2:4 reaches only m - n = 2"
    ):
        unpack_layer(tiling, weights, offsets)
