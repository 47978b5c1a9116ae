"""Schedules, followed instruction by instruction: which tile is in which bank, what the memory keeps, what leaves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from flexcim.accelerator.instructions import LoadTile, RunTiles
from flexcim.compiler.mapping import CompileError, Mapping, candidate_mappings, layer_rounds
from flexcim.compiler.schedule import Bounds, ResultPart, place_resident, schedule_layer
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.packed.tiling import LayerTiling
from tests.support.accelerators import ACCELERATORS

SPARSE = Pattern(2, 4)
MACRO = MacroConfig(rows=8, columns=8, activation_port=16)


def layers(config):
    """A layer of several K tiles and output tiles, and one of a single K tile, both with remainders."""
    pattern = config.macro.patterns[-1]
    groups = config.macro.legal_groups(pattern)[-1]
    for inputs in (2 * config.macro.tile_inputs(pattern, groups) + 5, config.macro.tile_inputs(pattern, groups) - 1):
        yield LayerTiling(config.macro, 4 * groups * config.macro.columns + 3, inputs, pattern, groups, "a test")


def follow(config, tiling, vectors, schedule):
    """Carry a schedule out on bookkeeping alone; returns how often each (output tile, K tile, vector) is multiplied.

    The loads' tiles, the run images and the results are taken in order, as the streams bring them.
    """
    held: dict[tuple[int, int], int] = {}  # (macro, bank): tile
    memory: dict[int, tuple[int, int, int]] = {}  # address: (K tile, vector, beat)
    tiles, runs, results = iter(schedule.tiles), iter(schedule.runs), iter(schedule.results)
    multiplied: Counter[tuple[int, int, int]] = Counter()
    open_sums: dict[int, list[int]] = {}  # by macro: the K tiles that its sums have had
    for one in (*schedule.loading, *schedule.instructions):
        if isinstance(one, LoadTile):
            assert (one.macro, one.bank) not in held, "a load of a bank that is not free"
            held[one.macro, one.bank] = next(tiles)
            continue
        places = [divmod(held[macro, one.bank], tiling.k_tiles) for macro in one.macros]
        (k_tile,) = {k_tile for _, k_tile in places}
        tile = tiling.tiles[k_tile]
        assert (one.pattern, one.rows, one.first_k, one.last_k) == (tile.pattern, tile.rows, tile.first_k, tile.last_k)
        if one.replay:
            beats = [memory[one.address + place] for place in range(one.vectors * one.beats)]
            assert [beat for _, _, beat in beats] == list(range(one.beats)) * one.vectors
            assert {k for k, _, _ in beats} == {k_tile}
            run_vectors = [vector for _, vector, beat in beats if beat == 0]
        else:
            part = next(runs)
            assert part.k_tile == k_tile
            run_vectors = list(part.vectors)
        assert len(run_vectors) == one.vectors
        if one.store:
            content = [(k_tile, vector, beat) for vector in run_vectors for beat in range(one.beats)]
            assert one.address + len(content) <= config.activation_memory
            memory.update(enumerate(content, one.address))
        for (output_tile, _), macro in zip(places, one.macros, strict=True):
            sums = open_sums.setdefault(macro, [])
            assert sums == list(range(k_tile)), "K tiles of one accumulation come in order"
            sums.append(k_tile)
            multiplied.update((output_tile, k_tile, vector) for vector in run_vectors)
            if one.last_k:
                del open_sums[macro]
        if one.last_k:
            found = next(results)
            assert list(found.output_tiles) == [output_tile for output_tile, _ in places]
            assert list(found.vectors) == run_vectors
        if one.release:
            for macro in one.macros:
                del held[macro, one.bank]
    assert [list(tiles), list(runs), list(results)] == [[], [], []]
    assert bool(held) == bool(schedule.loading)
    return multiplied


@pytest.mark.parametrize("config", ACCELERATORS.values(), ids=ACCELERATORS)
@pytest.mark.parametrize("vectors", [1, 11])
def test_each_mapping_multiplies_each_vector_by_each_tile_once(config, vectors):
    for tiling in layers(config):
        wanted = {
            (output_tile, k_tile, vector): 1
            for output_tile in range(tiling.output_tiles)
            for k_tile in range(tiling.k_tiles)
            for vector in range(vectors)
        }
        for mapping in candidate_mappings(config, tiling, vectors, config.macro.banks):
            schedule = schedule_layer(config, tiling, vectors, mapping, banks=config.macro.banks)
            assert follow(config, tiling, vectors, schedule) == wanted, mapping


@pytest.mark.parametrize("banks", [1, 2, 3])
def test_tiles_pass_through_the_banks_in_turn(banks):
    """So that one arrives while another computes, also where an odd number of K tiles meets two banks."""
    config = AcceleratorConfig(macro=replace(MACRO, banks=banks), macros=2)
    tiling = LayerTiling(config.macro, 40, 130, SPARSE, 1, "a test")  # 5 output tiles of 3 K tiles
    for width in (1, 2):
        mapping = Mapping(groups=1, width=width, chunk=4, keep=False)
        schedule = schedule_layer(config, tiling, 7, mapping, banks=banks)
        for macro in range(2):
            used = [one.bank for one in schedule.instructions if isinstance(one, LoadTile) and one.macro == macro]
            team_of_two_rests = width == 2 and macro == 1  # in the last round, which has one output tile
            if not team_of_two_rests:
                assert used == [place % banks for place in range(len(used))]
                assert len(used) >= 2 * 3 * 2


def test_a_resident_layer_loads_once_and_releases_nothing():
    config = AcceleratorConfig(macro=replace(MACRO, banks=4), macros=3, activation_memory=40)
    tiling = LayerTiling(config.macro, 30, 120, SPARSE, 1, "a test")  # 4 output tiles of 2 K tiles
    free = {(macro, bank) for macro in range(3) for bank in range(4)}
    placement = place_resident(config, tiling, 3, free)
    assert placement is not None
    mapping = Mapping(groups=1, width=3, chunk=5, keep=False)
    schedule = schedule_layer(config, tiling, 9, mapping, banks=4, resident=placement)
    assert {type(one) for one in schedule.instructions} == {RunTiles}
    assert sorted(schedule.tiles) == list(range(len(tiling.tiles)))
    assert set(follow(config, tiling, 9, schedule).values()) == {1}


def test_resident_tiles_take_free_banks_alone():
    config = AcceleratorConfig(macro=replace(MACRO, banks=4), macros=2)
    tiling = LayerTiling(config.macro, 16, 130, SPARSE, 1, "a test")  # 2 output tiles of 3 K tiles
    every = {(macro, bank) for macro in range(2) for bank in range(4)}
    free = every - {(1, 1)}
    placement = place_resident(config, tiling, 2, free)
    # One round, on both macros: the three banks that are free in both.
    assert placement == {(0, 0): 0, (0, 1): 2, (0, 2): 3}
    assert free == {(0, 1)}
    assert place_resident(config, tiling, 2, free) is None
    assert free == {(0, 1)}
    # Alone, each macro has a round of its own: not enough on the second one.
    assert place_resident(config, tiling, 1, every - {(1, 1), (1, 2)}) is None
    assert [one.macros for one in layer_rounds(config, tiling, 1)] == [(0,), (1,)]


def test_bounds_by_hand():
    """Two tiles of 8 and 1 slot rows, 3 vectors, one macro: S = 4, C = 8, q = 8, P = 16, 11 bits to a cell."""
    config = AcceleratorConfig(macro=MACRO, weight_bus=32, activation_bus=64, result_bus=128)
    tiling = LayerTiling(MACRO, 8, 70, SPARSE, 1, "a test")
    schedule = schedule_layer(config, tiling, 3, Mapping(groups=1, width=1, chunk=3, keep=False), banks=2)
    cells = 4 * 8  # of a slot row
    assert schedule.bounds(config) == Bounds(
        compute=2 * 3 * 8,  # two tiles, 3 vectors, A / b = 8 cycles
        weights=8 * cells * 11 // 32 + cells * 11 // 32,  # words; the beats, 9 rows of 4, are fewer
        activations=3 * 4 * 128 // 64 + 3 * 1 * 128 // 64,  # words of 4 beats and 1 beat of 16 bytes
        results=3 * 16 * 32 // 128,  # a beat of 16 results for each vector, of which 8 are used
    )
    assert schedule.bounds(config).by == "weights"
    assert schedule.bounds(config).cycles == 99
    assert Bounds(compute=3, weights=5, activations=5, results=1).by == "weights"


def test_the_first_round_stores_what_the_others_replay():
    """Room for 17 beats: K tile 0 of 3 vectors takes 12, K tile 1 takes 3."""
    config = AcceleratorConfig(macro=MACRO, activation_memory=17)
    tiling = LayerTiling(MACRO, 24, 70, SPARSE, 1, "a test")
    schedule = schedule_layer(config, tiling, 3, Mapping(groups=1, width=1, chunk=3, keep=False), banks=2)
    runs = [one for one in schedule.instructions if isinstance(one, RunTiles)]
    assert [(one.store, one.replay, one.address) for one in runs] == [
        (True, False, 0),
        (True, False, 12),
        *[(False, True, 0), (False, True, 12)] * 2,
    ]
    assert len(schedule.runs) == 2
    assert schedule.results == tuple(ResultPart(range(tile, tile + 1), range(3)) for tile in range(3))
    # With less room only K tile 1 is kept, in whose place K tile 0 would not fit.
    small = replace(config, activation_memory=11)
    schedule = schedule_layer(small, tiling, 3, Mapping(groups=1, width=1, chunk=3, keep=False), banks=2)
    runs = [one for one in schedule.instructions if isinstance(one, RunTiles)]
    assert [one.store or one.replay for one in runs] == [False, True] * 3


def test_a_layer_without_vectors_is_refused():
    config = AcceleratorConfig(macro=MACRO)
    tiling = LayerTiling(MACRO, 8, 8, SPARSE, 1, "a test")
    with pytest.raises(CompileError, match=r"^a layer must multiply at least one vector, not 0$"):
        schedule_layer(config, tiling, 0, Mapping(groups=1, width=1, chunk=1, keep=False), banks=2)
