"""Tiles and the choice of groups, and programs against the rules of the commands."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flexcim.config.errors import ConfigError
from flexcim.config.macro import PRESETS, MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.macro.commands import MAX_VECTORS, Load, Run
from flexcim.macro.cycles import program_cycles
from flexcim.macro.program import LoadStep, RunStep
from flexcim.packed import tiling as tiling_module
from flexcim.packed.parts import TilingError
from flexcim.packed.tiling import LayerTiling, Tile, tile_layer

SMALL = MacroConfig(
    sub_macros=4,
    rows=3,
    columns=2,
    activation_port=8,
    result_port=4,
    accumulator_depth=8,
    patterns=tuple(map(Pattern.parse, ("1:1", "4:8", "4:11", "2:4", "1:2", "1:4"))),
)
for_each_mode = pytest.mark.parametrize(("pattern", "groups"), SMALL.modes, ids=lambda value: str(value))


def shapes(pattern, groups):
    """Layers below, at and past the edges of one and of several tiles."""
    inputs, outputs = SMALL.tile_inputs(pattern, groups), SMALL.tile_outputs(groups)
    window = SMALL.window(pattern, groups)
    yield from [
        (1, 1),
        (outputs, inputs),
        (outputs + 1, inputs + 1),
        (2 * outputs, 2 * inputs),
        (3 * outputs - 1, 3 * inputs - 1),
        (2, inputs + window),
        (outputs - 1 or 1, window + 1),
        (1, 2 * inputs + pattern.m - 1 or 1),
    ]


def make(pattern, groups=1, outputs=5, inputs=50, config=SMALL):
    return LayerTiling(config, outputs, inputs, Pattern.parse(pattern), groups, "a test")


# --- Tiles -----------------------------------------------------------------------------------------------------------


def k_tile_of_600(output_tile, k_tile, rows, span):
    """A tile of 600 inputs in three K tiles."""
    return Tile(
        output_tile=output_tile,
        k_tile=k_tile,
        rows=rows,
        first_k=k_tile == 0,
        last_k=k_tile == 2,
        pattern=Pattern(4, 8),
        spans=(span,),
    )


def test_the_tiles_of_a_layer():
    tiling = LayerTiling(MacroConfig(), 100, 600, Pattern(4, 8), 1, "a test")
    assert (tiling.tile_inputs, tiling.tile_outputs) == (256, 32)
    assert (tiling.k_tiles, tiling.output_tiles) == (3, 4)
    assert len(tiling.tiles) == 12
    assert tiling.tiles[:4] == (
        k_tile_of_600(0, 0, 32, range(256)),
        k_tile_of_600(0, 1, 32, range(256, 512)),
        k_tile_of_600(0, 2, 11, range(512, 600)),
        k_tile_of_600(1, 0, 32, range(256)),
    )
    assert tiling.packed_shape == (12, 32, 4, 32)


@for_each_mode
def test_a_tile_has_the_rows_that_its_slots_need(pattern, groups):
    for outputs, inputs in shapes(pattern, groups):
        tiling = LayerTiling(SMALL, outputs, inputs, pattern, groups, "a test")
        for tile in tiling.tiles:
            left = min(tiling.tile_inputs, inputs - tile.k_tile * tiling.tile_inputs)
            slots = -(-left // pattern.m) * pattern.n
            assert tile.rows == -(-slots // (SMALL.sub_macros // groups))
            assert 1 <= tile.rows <= SMALL.rows
        assert [tile.first_k for tile in tiling.tiles] == [tile.k_tile == 0 for tile in tiling.tiles]
        assert sum(tile.last_k for tile in tiling.tiles) == tiling.output_tiles


@pytest.mark.parametrize(("outputs", "inputs", "name"), [(0, 4, "outputs"), (4, 0, "inputs"), (-1, 4, "outputs")])
def test_an_empty_layer_is_refused(outputs, inputs, name):
    message = f"a layer must have at least one of {name}, not {min(outputs, inputs)}"
    with pytest.raises(TilingError, match=message):
        tile_layer(SMALL, outputs, inputs, Pattern(2, 4))
    with pytest.raises(TilingError, match=message):
        make("2:4", outputs=outputs, inputs=inputs)


@pytest.mark.parametrize(
    ("pattern", "most"),
    [("1:1", 131071), ("2:4", 262141), ("4:8", 262139), ("1:4", 524284)],
)
def test_a_layer_whose_sums_could_leave_32_bits_is_refused(pattern, most):
    # 131071 products of -128 * -128 fit, 131072 make 2^31.
    make(pattern, inputs=most)
    message = (
        f"a layer of {most + 1} inputs keeps 131072 at {pattern}, and their products of 8 x 8 bits could add up to "
        f"{1 << 31}, but a sum has 32 bits"
    )
    with pytest.raises(TilingError, match=f"^{message}$"):
        make(pattern, inputs=most + 1)


def test_narrow_operands_allow_more_inputs():
    config = replace(SMALL, weight_bits=4, activation_bits=4)
    make("1:1", inputs=(1 << 25) - 1, config=config)
    with pytest.raises(TilingError, match="products of 4 x 4 bits"):
        make("1:1", inputs=1 << 25, config=config)


# --- The choice of G -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
@pytest.mark.parametrize(("outputs", "inputs", "vectors"), [(100, 40, 64), (30, 300, 1), (129, 128, 7)])
def test_the_groups_with_the_fewest_cycles_are_chosen(config, outputs, inputs, vectors):
    for pattern in config.patterns:
        tiling = tile_layer(config, outputs, inputs, pattern, vectors=vectors)
        cycles = {
            groups: program_cycles(config, replace(tiling, groups=groups).program(vectors)).cycles
            for groups in config.legal_groups(pattern)
        }
        assert cycles[tiling.groups] == min(cycles.values())
        assert tiling.groups == min(groups for groups in cycles if cycles[groups] == min(cycles.values()))
        assert f"G = {tiling.groups} takes {cycles[tiling.groups]} cycles for {vectors} vectors" in tiling.reason
        for groups in set(cycles) - {tiling.groups}:
            assert f"{cycles[groups]} at G = {groups}" in tiling.reason


def test_equal_cycles_give_the_smaller_groups(monkeypatch):
    class Same:
        cycles = 7

    tiling_module._cycles_by_groups.cache_clear()
    monkeypatch.setattr(tiling_module, "program_cycles", lambda config, program: Same)
    tiling = tile_layer(SMALL, 5, 5, Pattern(1, 4), vectors=3)
    tiling_module._cycles_by_groups.cache_clear()
    assert tiling.groups == 1
    assert tiling.reason == "G = 1 takes 7 cycles for 3 vectors, against 7 at G = 2, 7 at G = 4"


def test_a_wide_layer_of_few_inputs_gets_more_groups():
    # At G = 1 seven eighths of the cells would idle.
    assert tile_layer(MacroConfig(), 128, 16, Pattern(1, 1)).groups == 4


def test_the_only_legal_groups_are_named_as_such():
    tiling = tile_layer(SMALL, 5, 50, Pattern(4, 8))
    assert tiling.groups == 1
    assert tiling.reason.endswith(" cycles for 64 vectors, the only G legal for 4:8")


def test_groups_that_are_asked_for_are_obeyed():
    for groups in (1, 2, 4):
        tiling = tile_layer(SMALL, 5, 50, Pattern(1, 4), groups=groups)
        assert (tiling.groups, tiling.reason) == (groups, f"G = {groups} was asked for")


def test_an_illegal_mode_is_refused():
    with pytest.raises(ConfigError, match=r"pattern 2:4 is legal at groups 1, 2 of this instance .*, not 4"):
        tile_layer(SMALL, 5, 50, Pattern(2, 4), groups=4)
    for groups in (None, 1):
        with pytest.raises(ConfigError, match="pattern 2:8 is not on the menu"):
            tile_layer(SMALL, 5, 50, Pattern(2, 8), groups=groups)


# --- Programs --------------------------------------------------------------------------------------------------------


def check_program(tiling, vectors):
    """Carry the commands out by the rules of section 3.2; each tile must multiply each vector once, in order."""
    config = tiling.config
    program = tiling.program(vectors)
    loads, held = list(program.load_steps), {}
    done = np.zeros((len(tiling.tiles), vectors), int)
    open_run = None
    for step in program.run_steps:
        run, tile = step.command, tiling.tiles[step.tile]
        while run.bank not in held:
            load = loads.pop(0)
            assert load.command.bank not in held, "a load waits for a bank that is never released"
            assert 0 <= load.command.bank < config.banks
            assert load.command.rows == tiling.tiles[load.tile].rows
            held[load.command.bank] = load.tile
        assert held[run.bank] == step.tile
        assert (run.pattern, run.groups, run.rows) == (tiling.pattern, tiling.groups, tile.rows)
        assert (run.first_k, run.last_k) == (tile.first_k, tile.last_k)
        assert 1 <= run.vectors <= MAX_VECTORS
        if not (run.first_k and run.last_k):
            assert run.vectors * run.groups <= config.accumulator_depth
        if open_run is None:
            assert run.first_k
        else:
            assert not run.first_k
            assert (step.vectors, tile.k_tile) == (open_run[0], open_run[1] + 1)
        open_run = None if run.last_k else (step.vectors, tile.k_tile)
        done[step.tile, step.vectors] += 1
        # All vectors before these are done with this tile.
        assert done[step.tile, : step.vectors.stop].all()
        if run.release:
            del held[run.bank]
    assert not loads
    assert not held
    assert open_run is None
    assert (done == 1).all()
    return program


@for_each_mode
def test_programs_keep_the_rules(pattern, groups):
    for outputs, inputs in shapes(pattern, groups):
        tiling = LayerTiling(SMALL, outputs, inputs, pattern, groups, "a test")
        for vectors in (1, 2, 8, 9, 31):
            check_program(tiling, vectors)


@pytest.mark.parametrize("banks", [1, 2, 3])
def test_banks_rotate(banks):
    program = check_program(make("2:4", config=replace(SMALL, banks=banks)), 20)
    assert [load.bank for load in program.loads] == [index % banks for index in range(len(program.loads))]


def test_steps_are_in_issue_order():
    tiling = make("2:4", outputs=3, inputs=30)
    assert (tiling.k_tiles, tiling.output_tiles) == (2, 2)
    loads, runs = [], []
    for tile in range(4):
        bank, rows, first = tile % 2, (3, 1)[tile % 2], tile % 2 == 0
        loads.append(LoadStep(Load(bank=bank, rows=rows), tile))
        run = Run(bank=bank, pattern=tiling.pattern, groups=1, rows=rows, vectors=5, first_k=first, last_k=not first)
        runs.append(RunStep(run, tile, 0))
    program = tiling.program(5)
    assert program.steps == tuple(step for pair in zip(loads, runs, strict=True) for step in pair)
    assert (program.load_steps, program.run_steps) == (tuple(loads), tuple(runs))
    assert program.loads == tuple(step.command for step in loads)
    assert program.runs == tuple(step.command for step in runs)
    assert program.run_steps[0].vectors == slice(0, 5)


def test_several_k_tiles_cut_the_vectors_into_equal_chunks():
    tiling = make("1:2", groups=2, outputs=4, inputs=50)
    assert (tiling.k_tiles, tiling.output_tiles) == (5, 1)
    program = check_program(tiling, 9)  # D / G = 4
    assert [(step.tile, step.vectors.start, step.vectors.stop) for step in program.run_steps] == [
        (tile, *chunk) for chunk in ((0, 3), (3, 6), (6, 9)) for tile in range(5)
    ]
    assert [step.tile for step in program.load_steps] == [*range(5)] * 3
    assert all(run.release for run in program.runs)


def test_one_k_tile_runs_all_vectors_on_one_load():
    tiling = make("2:4", outputs=3, inputs=20)
    program = check_program(tiling, MAX_VECTORS)
    assert (len(program.loads), len(program.runs)) == (2, 2)
    program = check_program(tiling, 2 * MAX_VECTORS + 1)
    assert (len(program.loads), len(program.runs)) == (2, 6)
    assert [run.vectors for run in program.runs] == [43690, 43690, 43691] * 2
    assert [run.release for run in program.runs] == [False, False, True] * 2
    assert [step.first_vector for step in program.run_steps] == [0, 43690, 87380] * 2


def test_an_accumulator_deeper_than_a_command_can_name():
    tiling = make("2:4", inputs=30, config=replace(SMALL, accumulator_depth=65536))
    program = check_program(tiling, 65536)
    assert [run.vectors for run in program.runs[:4]] == [32768] * 4


@pytest.mark.parametrize("vectors", [0, -1])
def test_a_program_without_vectors_is_refused(vectors):
    with pytest.raises(TilingError, match=f"a program needs at least one vector, not {vectors}"):
        make("2:4").program(vectors)
