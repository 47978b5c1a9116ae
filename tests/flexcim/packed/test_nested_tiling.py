"""Nested layers, whose denser plan is their sparser one and a rest: tiles, placement, and the product of both plans."""

from __future__ import annotations

import re

import numpy as np
import pytest

from flexcim.config.errors import ConfigError
from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern, union
from flexcim.packed.cells import pack_layer, sparser_cells, unpack_layer, unpack_parts
from flexcim.packed.parts import TilingError, legal_groups
from flexcim.packed.tiling import LayerTiling, tile_layer
from flexcim_sim.golden.layer import layer_outputs
from tests.support.sparse_weights import random_parts

SMALL = MacroConfig(
    sub_macros=4,
    rows=3,
    columns=2,
    activation_port=8,
    result_port=4,
    accumulator_depth=8,
    patterns=tuple(map(Pattern.parse, ("1:1", "2:8", "4:8", "4:11", "2:4", "1:4"))),
)
PARTS = ["2:8 2:8", "2:8 4:8", "4:8 4:8", "1:4 2:8", "4:11 2:4", "2:4 1:1", "1:4 1:4"]
for_each_nesting = pytest.mark.parametrize(
    "patterns", [tuple(map(Pattern.parse, pair.split())) for pair in PARTS], ids=PARTS
)


def make(patterns, groups=1, outputs=5, inputs=50, config=SMALL):
    base, rest = patterns
    return LayerTiling(config, outputs, inputs, base, groups, "a test", rest)


def shapes(patterns, groups):
    """Layers of less than a tile, of whole tiles, and with a base that ends in the middle of one."""
    window = SMALL.window(patterns[0], groups)
    for inputs in (1, window, window + 1, 3 * window, 4 * window - 1, 7 * window + 3):
        yield 2 * groups * 2 - 1, inputs


@for_each_nesting
def test_both_plans_are_the_integer_product(patterns):
    rng = np.random.default_rng(31)
    for groups in legal_groups(SMALL, patterns):
        for outputs, inputs in shapes(patterns, groups):
            tiling = make(patterns, groups, outputs, inputs)
            base, rest = random_parts(rng, outputs, inputs, patterns)
            cells = pack_layer(tiling, base, rest)
            for found, wanted in zip(unpack_parts(tiling, *cells), (base, rest), strict=True):
                np.testing.assert_array_equal(found, wanted)
            np.testing.assert_array_equal(unpack_layer(tiling, *cells), base + rest)
            activations = rng.integers(-128, 128, (9, inputs)).astype(np.int8)
            weights, offsets = (sparser_cells(tiling, one) for one in cells)
            for plan, (of_weights, of_offsets), matrix in (
                (tiling, cells, base + rest),
                (tiling.sparser, (weights, offsets), base),
            ):
                product = activations.astype(int) @ matrix.T.astype(int)
                sums = layer_outputs(plan, of_weights, of_offsets, activations)
                np.testing.assert_array_equal(sums, product)


@for_each_nesting
def test_the_sparser_plan_is_what_the_base_alone_is_packed_as(patterns):
    """Tile by tile its first rows, so that a tile's image begins with that of the sparser plan."""
    rng = np.random.default_rng(32)
    for groups in legal_groups(SMALL, patterns):
        for outputs, inputs in shapes(patterns, groups):
            tiling = make(patterns, groups, outputs, inputs)
            sparser = tiling.sparser
            base, rest = random_parts(rng, outputs, inputs, patterns)
            for nested, alone in zip(pack_layer(tiling, base, rest), pack_layer(sparser, base), strict=True):
                np.testing.assert_array_equal(sparser_cells(tiling, nested), alone)
            of_nested = {(tile.output_tile, tile.k_tile): tile for tile in tiling.tiles}
            for tile in sparser.tiles:
                other = of_nested[tile.output_tile, tile.k_tile]
                assert (other.pattern, other.spans[0]) == (tile.pattern, tile.spans[0])
                assert other.rows >= tile.rows


def test_a_rest_of_the_same_pattern_goes_on_in_the_bases_last_tile():
    """So that 2:8 + 2:8 takes the tiles of 4:8; another pattern begins a tile, since a run has only one."""
    config = MacroConfig()
    same, union_of_both = make((Pattern(2, 8),) * 2, 1, 100, 200, config), tile_layer(config, 100, 200, Pattern(4, 8))
    assert (same.k_tiles, union_of_both.k_tiles) == (1, 1)
    (tile, *_) = same.tiles
    assert (tile.rows, tile.spans) == (26, (range(200), range(200)))
    other = make((Pattern(2, 8), Pattern(4, 8)), 1, 100, 200, config)
    assert [(tile.rows, str(tile.pattern)) for tile in other.tiles[:2]] == [(13, "2:8"), (25, "4:8")]
    three = make((Pattern(2, 8),) * 2, 1, 100, 768, config)
    assert [(tile.rows, tile.spans) for tile in three.tiles[:3]] == [
        (32, (range(512),)),
        (32, (range(512, 768), range(256))),
        (32, (range(256, 768),)),
    ]


def test_a_nested_layer_says_what_it_is():
    nested = make((Pattern(2, 8), Pattern(4, 8)))
    assert nested.pattern_names == "2:8 + 4:8"
    assert nested.sparser.pattern_names == "2:8"
    assert nested.sparser.sparser == nested.sparser
    assert tile_layer(SMALL, 5, 50, Pattern(2, 8), rest=Pattern(4, 8)).reason.endswith("only G legal for 2:8 + 4:8")
    assert tile_layer(SMALL, 5, 50, Pattern(2, 8), rest=Pattern(2, 8), groups=2).groups == 2


@pytest.mark.parametrize(
    ("parts", "whole"), [("2:8 2:8", "4:8"), ("4:8 4:8", "1:1"), ("4:7 4:7", "1:1"), ("1:4 2:8", "1:1"), ("2:5", "2:5")]
)
def test_the_pattern_of_several_parts(parts, whole):
    assert union([Pattern.parse(part) for part in parts.split()]) == Pattern.parse(whole)


def test_both_patterns_must_be_legal():
    with pytest.raises(ConfigError, match="pattern 1:2 is not on the menu"):
        make((Pattern(2, 8), Pattern(1, 2)))
    with pytest.raises(ConfigError, match="pattern 4:8 is legal at groups 1 of this instance"):
        make((Pattern(2, 8), Pattern(4, 8)), groups=2)
    message = "a layer of 180000 inputs keeps 135000 at 2:8 + 4:8, and their products of 8 x 8 bits could add up to"
    with pytest.raises(TilingError, match=re.escape(message)):
        make((Pattern(2, 8), Pattern(4, 8)), inputs=180_000)


def test_a_weight_in_both_parts_is_refused():
    tiling = make((Pattern(2, 8),) * 2)
    base, rest = (np.zeros((5, 50), np.int8) for _ in range(2))
    base[3, 20], rest[3, 20] = 5, -7
    cells = pack_layer(tiling, base, rest)
    message = "output 3 has weight 5 at input 20 in the base and -7 in the rest, but a weight is stored once"
    with pytest.raises(TilingError, match=message):
        unpack_layer(tiling, *cells)


def test_a_rest_must_be_given_where_there_is_one_and_only_there():
    matrix = np.zeros((5, 50), np.int8)
    tiling = make((Pattern(2, 8),) * 2)
    with pytest.raises(TilingError, match="the tiling has a rest of 2:8, but none was given"):
        pack_layer(tiling, matrix)
    with pytest.raises(TilingError, match="the tiling has no rest, but one was given"):
        pack_layer(tiling.sparser, matrix, matrix)
    with pytest.raises(TilingError, match=re.escape("weights must be [5, 50], the tiling's shape, not [5, 49]")):
        pack_layer(tiling, matrix, matrix[:, 1:])


def test_what_lies_between_the_parts_must_be_zero():
    tiling = make((Pattern(2, 8), Pattern(4, 8)), inputs=20)
    weights, offsets = pack_layer(tiling, *(np.zeros((5, 20), np.int8) for _ in range(2)))
    weights[0, 2, 0, 0] = 3  # the base has two rows of the first tile
    with pytest.raises(TilingError, match="weights past the layer's inputs must be 0, but one is 3"):
        unpack_layer(tiling, weights, offsets)
