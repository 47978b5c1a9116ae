"""Budgets: what is counted, what is refused, and cycles against the program of all layers together."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from flexcim.config.macro import PRESETS
from flexcim.config.pattern import Pattern
from flexcim.macro.cycles import program_cycles
from flexcim.macro.program import LoadStep, Program, RunStep, Step
from flexcim.packed.tiling import tile_layer
from flexcim_flow.choice.budgets import CycleBudget, SparsityBudget, StorageBudget, parse_budget, pose
from flexcim_flow.choice.knapsack import select_cheapest
from flexcim_flow.choice.problem import SelectionError, Unit

pytestmark = pytest.mark.torch

FLEXCIM, BOARD = PRESETS["flexcim"], PRESETS["board"]
DENSE, HALF, QUARTER = Pattern(1, 1), Pattern(4, 8), Pattern(2, 8)
MENU = (DENSE, HALF, QUARTER)


def unit(*shapes: tuple[int, int]) -> Unit:
    return Unit("block", tuple(map(str, range(len(shapes)))), shapes)


def test_remainders_are_counted_as_they_are():
    # 2:8 keeps 2 of the last block's 3 inputs: 4 of 11 in all.
    problem = pose([unit((5, 11))], MENU, SparsityBudget(0.6))
    assert problem.used([2]) == 5 * 4
    with pytest.raises(SelectionError, match=r"^sparsity 0.64 is out of reach for this menu and model, the nearest is"):
        pose([unit((5, 11))], MENU, SparsityBudget(0.64))


@pytest.mark.parametrize(
    ("budget", "impossible"),
    [
        (SparsityBudget, 1.0),
        (lambda share: StorageBudget(share, FLEXCIM), 0.01),
        (lambda share: CycleBudget(share, BOARD, 8), 0.01),
    ],
)
def test_the_nearest_that_is_named_can_be_reached(budget, impossible):
    units = [unit((5, 11), (3, 21)), unit((40, 75))]
    patterns = [pattern for pattern in MENU if pattern in BOARD.patterns]
    with pytest.raises(SelectionError, match="out of reach") as error:
        pose(units, patterns, budget(impossible))
    nearest = float(str(error.value).split()[-1])
    problem = pose(units, patterns, budget(nearest))
    assert problem.resources.min(axis=1).sum() <= problem.limit


def test_a_target_means_the_decimal_that_is_written():
    # In binary floating point 0.55 * 100 is more than 55.
    assert pose([unit((1, 100))], MENU, SparsityBudget(0.55)).limit == 45


@pytest.mark.parametrize("target", [-0.01, 1.01, float("nan")])
def test_targets_outside_of_0_to_1_are_refused(target):
    with pytest.raises(SelectionError, match=f"^sparsity must be between 0 and 1, not {target}$"):
        SparsityBudget(target)


@pytest.mark.parametrize("share", [0, -0.5, 1.01, float("nan")])
def test_shares_outside_of_0_to_1_are_refused(share):
    with pytest.raises(SelectionError, match=f"of the dense model, above 0 and at most 1, not {share}$"):
        StorageBudget(share, FLEXCIM)
    with pytest.raises(SelectionError, match=f"of the dense model, above 0 and at most 1, not {share}$"):
        CycleBudget(share, FLEXCIM, 8)


def test_stored_bits_are_weights_and_offsets_of_the_slots():
    budget = StorageBudget(0.5, FLEXCIM)
    assert budget.takes(3, 16, DENSE) == 3 * 16 * 8
    assert budget.takes(3, 16, Pattern(2, 4)) == 3 * 8 * (8 + 2)  # offsets 0 ... 2
    assert budget.takes(3, 17, QUARTER) == 3 * 6 * (8 + 3)  # the last block has 2 slots for 1 input
    assert budget.takes(3, 16, Pattern(1, 2)) == 3 * 8 * (8 + 1)
    assert replace(FLEXCIM, weight_bits=4).weight_bits == 4
    assert StorageBudget(0.5, replace(FLEXCIM, weight_bits=4)).takes(3, 16, DENSE) == 3 * 16 * 4


def test_cycles_are_those_of_the_layers_program():
    budget = CycleBudget(0.5, FLEXCIM, 20)
    tiling = tile_layer(FLEXCIM, 100, 300, HALF, vectors=20)
    assert budget.takes(100, 300, HALF) == program_cycles(FLEXCIM, tiling.program(20)).cycles


@pytest.mark.parametrize("seed", range(6))
def test_layers_one_after_the_other_take_little_less_in_one_program(seed):
    """The sum over the layers is an upper bound of the cycles of all layers in one program, and a close one."""
    rng = np.random.default_rng(seed)
    vectors = int(rng.integers(8, 40))
    tilings = [
        tile_layer(FLEXCIM, int(rows), int(columns), MENU[rng.integers(3)], vectors=vectors)
        for rows, columns in rng.integers(30, 400, (4, 2))
    ]
    alone = [program_cycles(FLEXCIM, tiling.program(vectors)).cycles for tiling in tilings]
    steps: list[Step] = []
    tiles = loads = 0
    for tiling in tilings:
        program = tiling.program(vectors)
        for step in program.steps:
            # The banks go on rotating from layer to layer, and each layer's tiles follow those before it.
            bank = (step.command.bank + loads) % FLEXCIM.banks
            if isinstance(step, LoadStep):
                steps.append(LoadStep(replace(step.command, bank=bank), tiles + step.tile))
            else:
                steps.append(RunStep(replace(step.command, bank=bank), tiles + step.tile, step.first_vector))
        tiles += len(tiling.tiles)
        loads += len(program.loads)
    together = program_cycles(FLEXCIM, Program(tuple(steps))).cycles
    assert together <= sum(alone)
    # What is saved at each seam is at most the loads of a tile, a vector's beats and the latency.
    most = FLEXCIM.weight_beats(FLEXCIM.rows) * FLEXCIM.banks + 64
    assert sum(alone) - together <= len(list(pairwise(alone))) * most


def test_a_choice_within_a_budget_of_cycles_is_within_it():
    units = [unit((64, 256)), unit((96, 512)), unit((64, 128))]
    problem = pose(units, FLEXCIM.patterns, CycleBudget(0.6, FLEXCIM, 32))
    costs = 1 - np.array([[pattern.density for pattern in problem.patterns]] * 3)
    found = select_cheapest(problem, costs)
    dense = sum(CycleBudget(1, FLEXCIM, 32).takes(*one.shapes[0], DENSE) for one in units)
    taken = sum(
        CycleBudget(1, FLEXCIM, 32).takes(*one.shapes[0], pattern)
        for one, pattern in zip(units, found.patterns, strict=True)
    )
    assert taken == found.used <= 0.6 * dense


def test_impossible_budgets_are_refused():
    with pytest.raises(SelectionError, match="a budget of cycles needs at least one vector, not 0"):
        CycleBudget(0.5, FLEXCIM, 0)
    with pytest.raises(SelectionError, match="a share of the dense ones, but the menu has no 1:1"):
        CycleBudget(0.5, replace(FLEXCIM, patterns=(HALF,)), 8)
    with pytest.raises(ValueError, match="at least one unit"):
        pose([], MENU, SparsityBudget(0.5))
    with pytest.raises(ValueError, match="at least one pattern"):
        pose([unit((1, 1))], [], SparsityBudget(0.5))


def test_budgets_are_read_from_text():
    assert parse_budget("sparsity=0.6", FLEXCIM, 8) == SparsityBudget(0.6)
    assert parse_budget("bytes=0.5", FLEXCIM, 8) == StorageBudget(0.5, FLEXCIM)
    assert parse_budget("cycles=0.5", FLEXCIM, 8) == CycleBudget(0.5, FLEXCIM, 8)
    assert [str(parse_budget(text, FLEXCIM, 8)) for text in ("sparsity=0.6", "bytes=0.5", "cycles=0.5")] == [
        "sparsity of at least 60.00%",
        "at most 50.00% of the dense model's bytes",
        "at most 50.00% of the dense model's cycles for 8 vectors",
    ]
    with pytest.raises(SelectionError, match=r"^a budget must be written like cycles=0.5, not 'cycles'$"):
        parse_budget("cycles", FLEXCIM, 8)
    with pytest.raises(SelectionError, match=r"^a budget must be of sparsity, bytes or cycles, not of 'joules'$"):
        parse_budget("joules=1", FLEXCIM, 8)
