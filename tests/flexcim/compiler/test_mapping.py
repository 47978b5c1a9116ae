"""Mappings: rounds cover the output tiles, and no mapping goes past what an instruction can name."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from flexcim.compiler.mapping import Mapping, candidate_mappings, layer_rounds, vector_beats
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.packed.tiling import LayerTiling
from tests.support.accelerators import ACCELERATORS

MACRO = MacroConfig(rows=8, columns=8, activation_port=16)
SPARSE, QUARTER = Pattern(2, 4), Pattern(1, 4)


def tiling(outputs, inputs, pattern=SPARSE, groups=1, rest=None):
    return LayerTiling(MACRO, outputs, inputs, pattern, groups, "a test", rest)


@pytest.mark.parametrize("macros", [1, 2, 3, 5])
@pytest.mark.parametrize("output_tiles", [1, 2, 7])
def test_each_output_tile_has_one_macro_and_teams_take_turns(macros, output_tiles):
    config = AcceleratorConfig(macro=MACRO, macros=macros)
    layer = tiling(8 * output_tiles - 3, 30)
    for width in range(1, macros + 1):
        rounds = layer_rounds(config, layer, width)
        assert [one.first_tile + place for one in rounds for place in range(len(one.macros))] == [*range(output_tiles)]
        for index, one in enumerate(rounds):
            assert one.team == index % (macros // width)
            assert set(one.macros) <= set(range(one.team * width, (one.team + 1) * width))
        assert all(len(one.macros) == width for one in rounds[:-1])


@pytest.mark.parametrize(
    ("layer", "beats"),
    [
        # 2:4 at G = 1: windows of 8 inputs, two of them in a beat of 16. 70 inputs are 8 rows and 1.
        (tiling(8, 70), [4, 1]),
        # 1:4 at G = 1: windows of 16, one to a beat; at G = 4 of 4, four to a beat.
        (tiling(8, 128, QUARTER), [8]),
        (tiling(8, 130, QUARTER), [8, 1]),
        (tiling(8, 30, QUARTER, 4), [2]),
        # A nested layer: the base's 3 rows and the rest's 3 of one pattern share a tile; those of another one do not.
        (tiling(8, 20, SPARSE, rest=SPARSE), [3]),
        (tiling(8, 20, SPARSE, rest=QUARTER), [2, 2]),
    ],
)
def test_the_beats_of_a_vector(layer, beats):
    assert vector_beats(layer) == beats


def test_all_mappings_of_a_small_layer():
    """Two macros, three output tiles, two K tiles of 4 and 1 beats; the memory keeps 3 of 10 vectors."""
    config = AcceleratorConfig(macro=MACRO, macros=2, activation_memory=17)
    layer = tiling(24, 70)
    common = {"groups": 1, "keep": False}
    streamed = [
        Mapping(width=width, chunk=chunk, **common)  # type: ignore[arg-type]
        for width in (2, 1)
        for chunk in (10, 5, 3)
    ]
    kept = [replace(mapping, keep=True) for mapping in streamed if mapping.chunk < 10]
    assert Counter(candidate_mappings(config, layer, 10, banks=2)) == Counter(streamed + kept)
    # With one bank, two K tiles cannot stay; with one vector there is nothing to keep them for.
    assert Counter(candidate_mappings(config, layer, 10, banks=1)) == Counter(streamed)
    assert [mapping.chunk for mapping in candidate_mappings(config, layer, 1, banks=2)] == [1, 1]


@pytest.mark.parametrize("config", ACCELERATORS.values(), ids=ACCELERATORS)
@pytest.mark.parametrize("vectors", [1, 9, 70_000])
def test_each_mapping_keeps_within_its_limits(config, vectors):
    macro = config.macro
    seen = 0
    for pattern, groups in macro.modes:
        layer = LayerTiling(macro, 5 * groups * macro.columns, 90, pattern, groups, "a test")
        mappings = list(candidate_mappings(config, layer, vectors, macro.banks))
        assert len(set(mappings)) == len(mappings)
        for mapping in mappings:
            assert mapping.groups == groups
            assert 1 <= mapping.width <= min(config.macros, layer.output_tiles)
            assert 1 <= mapping.chunk <= min(vectors, 65535)
            if layer.k_tiles > 1:
                assert mapping.chunk * groups <= macro.accumulator_depth
            bits = mapping.chunk * max(vector_beats(layer)) * config.activation_beat_bits
            assert bits <= ((1 << 24) - 1) * config.activation_bus
            if mapping.keep:
                assert layer.k_tiles <= macro.banks
                assert mapping.chunk < vectors
        seen += len(mappings)
    assert seen >= len(macro.modes)
