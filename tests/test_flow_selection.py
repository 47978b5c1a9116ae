"""The integer program against exhaustive search, its bounds and its messages."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from flexcim.config import PRESETS
from flexcim.pattern import Pattern
from flow.masks import kept_weights
from flow.selection import CANDIDATES, BlockFacts, SelectionError, check_target, objective, select

MENU = tuple(CANDIDATES)
DENSE, HALF, QUARTER = Pattern(1, 1), Pattern(2, 4), Pattern(2, 8)


def random_blocks(rng: np.random.Generator, count: int, equal: bool) -> list[BlockFacts]:
    """Blocks with random facts, of equal shapes or of shapes that differ and leave remainders."""

    def shapes() -> tuple[tuple[int, int], ...]:
        return tuple((int(rng.integers(1, 40)), int(rng.integers(1, 70))) for _ in range(rng.integers(1, 4)))

    same = shapes()
    return [
        BlockFacts(float(rng.random() ** 2 / 50), float(rng.random() / 1e4), same if equal else shapes())
        for _ in range(count)
    ]


def zeros(block: BlockFacts, pattern: Pattern) -> int:
    return sum(rows * columns - kept_weights(rows, columns, pattern) for rows, columns in block.shapes)


def total(blocks: list[BlockFacts]) -> int:
    return sum(rows * columns for block in blocks for rows, columns in block.shapes)


def cost_by_hand(blocks: list[BlockFacts], assignment: tuple[Pattern, ...]) -> float:
    """The objective as the paper writes it, in plain Python."""

    def stretched(values: list[float]) -> list[float]:
        low, high = min(values), max(values)
        return [(value - low) / (high - low) if high > low else 0.0 for value in values]

    outliers = stretched([block.outlier_share for block in blocks])
    clustering = stretched([block.locality for block in blocks])
    cost = 0.0
    for pattern, O, D in zip(assignment, outliers, clustering, strict=True):  # noqa: E741
        pairs = [(4, 4), (8, 8)] if pattern.is_dense else [(pattern.n, pattern.m)]
        cost += min(1 * abs(n - 8 * O) + 4 * abs(m - 8 * (1 - D)) for n, m in pairs)
    return cost


@pytest.mark.parametrize("seed", range(40))
def test_selection_is_as_good_as_exhaustive_search(seed):
    rng = np.random.default_rng(seed)
    blocks = random_blocks(rng, count=1 + seed % 5, equal=bool(seed % 2))
    target = float(rng.random() * sum(zeros(block, QUARTER) for block in blocks) / total(blocks))
    feasible = [
        (cost_by_hand(blocks, assignment), dropped)
        for assignment in itertools.product(MENU, repeat=len(blocks))
        if (dropped := sum(map(zeros, blocks, assignment))) >= target * total(blocks)
    ]
    best = min(cost for cost, _ in feasible)
    least = min(dropped for cost, dropped in feasible if cost < best + 1e-6)

    found = select(blocks, target, MENU)
    patterns = [choice.pattern for choice in found.choices]
    assert found.objective == pytest.approx(best, abs=1e-5)
    assert objective(blocks, patterns) == pytest.approx(cost_by_hand(blocks, tuple(patterns)), rel=1e-12)
    assert sum(choice.cost for choice in found.choices) == pytest.approx(found.objective)
    assert round(found.sparsity * total(blocks)) == least == sum(map(zeros, blocks, patterns))


@pytest.mark.parametrize("count", [1, 2, 5, 12, 31, 80])
def test_every_target_up_to_the_largest_sparsity_is_feasible(count):
    rng = np.random.default_rng(count)
    blocks = [BlockFacts(float(rng.random()), float(rng.random()), ((64, 64),)) for _ in range(count)]
    for target in np.arange(0, 76, 3) / 100:
        found = select(blocks, float(target), MENU)
        assert found.sparsity >= target
    assert select(blocks, 0.75, MENU).sparsity == 0.75


@pytest.mark.parametrize("seed", range(5))
def test_many_large_blocks_of_unlike_shapes_are_no_numerical_trouble(seed):
    rng = np.random.default_rng(seed)
    blocks = [
        BlockFacts(float(rng.random()), float(rng.random()), ((int(rows), int(columns)),))
        for rows, columns in rng.integers(8, 30_000, (70, 2))
    ]
    for target in (0.3, 0.55, 0.6, 0.7):
        found = select(blocks, target, MENU)
        # Where the target decides, so many unlike blocks meet it closely.
        assert target <= found.sparsity
        assert target == 0.3 or found.sparsity < target + 0.02


def test_the_target_counts_weights_not_blocks():
    blocks = [BlockFacts(0.0, 0.0, ((100, 80),)), BlockFacts(1.0, 0.0, ((10, 80),))]
    # Dropping the whole small block reaches 1/11 of the weights, where a mean over blocks would be content.
    found = select(blocks, 0.5, MENU)
    assert found.sparsity >= 0.5
    assert found.choices[0].pattern != DENSE


def test_remainders_are_counted_as_they_are():
    # 2:8 keeps 2 of the last block's 3 inputs: 4 of 11 in all.
    block = BlockFacts(0.0, 0.0, ((5, 11),))
    assert select([block], 0.6, MENU).sparsity == 7 / 11
    with pytest.raises(SelectionError, match=r"^sparsity 0.64 is out of reach for this menu and model, the nearest is"):
        select([block], 0.64, MENU)


def test_the_nearest_target_that_is_named_can_be_reached():
    blocks = [BlockFacts(0.0, 0.0, ((5, 11), (3, 21)))]
    with pytest.raises(SelectionError) as error:
        select(blocks, 1.0, MENU)
    nearest = float(str(error.value).split()[-1])
    assert select(blocks, nearest, MENU).sparsity == pytest.approx(nearest, abs=1e-4)


def test_a_target_means_the_decimal_that_is_written():
    # In binary floating point 0.55 * 100 is more than 55.
    assert check_target([((1, 100),)], 0.55, MENU) == 55


def test_the_hardwares_menu_limits_the_candidates():
    blocks = [BlockFacts(0.0, 0.0, ((8, 8),)), BlockFacts(1.0, 0.5, ((8, 8),))]
    found = select(blocks, 0.5, PRESETS["fixed-2-4"].patterns)
    assert {choice.pattern for choice in found.choices} == {HALF}
    with pytest.raises(SelectionError, match=r"^sparsity 0.51 is out of reach .* the nearest is 0.5$"):
        select(blocks, 0.51, PRESETS["fixed-2-4"].patterns)
    assert select(blocks, 0, PRESETS["dense"].patterns).sparsity == 0
    with pytest.raises(SelectionError, match=r"must have one of FLOW's candidates 1:1 4:8 2:4 2:8, but it is 1:2 1:4$"):
        select(blocks, 0.1, [Pattern(1, 4), Pattern(1, 2)])


@pytest.mark.parametrize("target", [-0.01, 1.01, float("nan")])
def test_targets_outside_of_0_to_1_are_refused(target):
    with pytest.raises(SelectionError, match=f"^sparsity must be between 0 and 1, not {target}$"):
        select([BlockFacts(0.0, 0.0, ((8, 8),))], target, MENU)


def test_equal_blocks_normalise_to_zero():
    found = select([BlockFacts(0.3, 0.2, ((8, 8),))] * 3, 0, MENU)
    assert {(choice.outliers, choice.clustering) for choice in found.choices} == {(0.0, 0.0)}


def test_ties_drop_least_where_the_outliers_are():
    # With D' = 0, m = 8 costs nothing, and above O' = 0.5 going from 4:8 to 2:8 costs |2 - 8 O'| - |4 - 8 O'| = 2
    # everywhere. This target asks for it in two of five such blocks, so there are ten solutions of equal cost.
    shares = (1.0, 0.7, 0.5, 0.6, 0.0, 0.65, 0.55)
    found = select([BlockFacts(share, 0.0, ((8, 64),)) for share in shares], 0.53, MENU)
    assert found.sparsity == 3.75 / 7
    patterns = {share: str(choice.pattern) for share, choice in zip(shares, found.choices, strict=True)}
    assert patterns == {0.0: "2:8", 0.5: "2:8", 0.55: "2:8", 0.6: "4:8", 0.65: "4:8", 0.7: "4:8", 1.0: "1:1"}


def test_reasons_say_whether_the_target_decided():
    blocks = [BlockFacts(0.0, 0.0, ((8, 64),)), BlockFacts(1.0, 0.0, ((8, 64),))]
    free, forced = select(blocks, 0.0, MENU).choices[1], select(blocks, 0.75, MENU).choices[1]
    assert free.reason == "O' = 1.000 and D' = 0.000 make 1:1 cost 0.00, the least for this block"
    assert forced.reason == (
        "O' = 1.000 and D' = 0.000 make 2:8 cost 6.00, taken for the target, as 1:1 is the cheapest for this block"
    )


def test_the_objective_refuses_what_it_cannot_price():
    blocks = [BlockFacts(0.0, 0.0, ((8, 8),))]
    with pytest.raises(ValueError, match="1 blocks need as many patterns, not 2"):
        objective(blocks, [DENSE, DENSE])
    with pytest.raises(ValueError, match="pattern 1:3 is none of FLOW's candidates 1:1 4:8 2:4 2:8"):
        objective(blocks, [Pattern(1, 3)])
    with pytest.raises(ValueError, match="a selection needs at least one block"):
        select([], 0, MENU)
