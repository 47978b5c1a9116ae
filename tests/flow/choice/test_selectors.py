"""The selectors against exhaustive search and dynamic programming, their bounds and their messages."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from flexcim.config.macro import PRESETS
from flexcim.config.pattern import Pattern
from flexcim_flow.choice.budgets import SparsityBudget, pose
from flexcim_flow.choice.knapsack import select_cheapest, solve_knapsack
from flexcim_flow.choice.owl import select_owl
from flexcim_flow.choice.paper import CANDIDATES, UnitFacts, objective, select_paper
from flexcim_flow.choice.problem import Assignment, Problem, SelectionError, Unit, units_of
from flexcim_flow.choice.uniform import select_uniform, uniform_mixes
from flexcim_flow.layer.masks import kept_weights

MENU = tuple(CANDIDATES)
DENSE, HALF, QUARTER = Pattern(1, 1), Pattern(2, 4), Pattern(2, 8)
WIDE = PRESETS["wide"].patterns


def unit(*shapes: tuple[int, int], name: str = "block") -> Unit:
    return Unit(name, tuple(f"{name}.{index}" for index in range(len(shapes))), shapes)


def random_units(rng: np.random.Generator, count: int, equal: bool) -> tuple[list[Unit], list[UnitFacts]]:
    """Units with random facts, of equal shapes or of shapes that differ and leave remainders."""

    def shapes() -> list[tuple[int, int]]:
        return [(int(rng.integers(1, 40)), int(rng.integers(1, 70))) for _ in range(rng.integers(1, 4))]

    same = shapes()
    units = [unit(*(same if equal else shapes())) for _ in range(count)]
    return units, [UnitFacts(float(rng.random() ** 2 / 50), float(rng.random() / 1e4)) for _ in range(count)]


def zeros(unit: Unit, pattern: Pattern) -> int:
    return sum(rows * columns - kept_weights(rows, columns, pattern) for rows, columns in unit.shapes)


def total(units: list[Unit]) -> int:
    return sum(unit.weights for unit in units)


def dropped(units: list[Unit], found: Assignment) -> int:
    return total(units) - found.used


def cost_by_hand(facts: list[UnitFacts], assignment: tuple[Pattern, ...]) -> float:
    """The objective as the paper writes it, in plain Python."""

    def stretched(values: list[float]) -> list[float]:
        low, high = min(values), max(values)
        return [(value - low) / (high - low) if high > low else 0.0 for value in values]

    outliers = stretched([unit.outlier_share for unit in facts])
    clustering = stretched([unit.locality for unit in facts])
    cost = 0.0
    for pattern, O, D in zip(assignment, outliers, clustering, strict=True):  # noqa: E741
        pairs = [(4, 4), (8, 8)] if pattern.is_dense else [(pattern.n, pattern.m)]
        cost += min(1 * abs(n - 8 * O) + 4 * abs(m - 8 * (1 - D)) for n, m in pairs)
    return cost


def paper(units: list[Unit], facts: list[UnitFacts], target: float) -> Assignment:
    return select_paper(pose(units, MENU, SparsityBudget(target)), facts)


# --- The paper's ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_the_papers_selection_is_as_good_as_exhaustive_search(seed):
    rng = np.random.default_rng(seed)
    units, facts = random_units(rng, count=1 + seed % 5, equal=bool(seed % 2))
    target = float(rng.random() * sum(zeros(unit, QUARTER) for unit in units) / total(units))
    feasible = [
        (cost_by_hand(facts, assignment), taken)
        for assignment in itertools.product(MENU, repeat=len(units))
        if (taken := sum(map(zeros, units, assignment))) >= target * total(units)
    ]
    best = min(cost for cost, _ in feasible)
    least = min(taken for cost, taken in feasible if cost < best + 1e-6)

    found = paper(units, facts, target)
    assert found.objective == pytest.approx(best, abs=1e-5)
    assert objective(facts, found.patterns) == pytest.approx(cost_by_hand(facts, found.patterns), rel=1e-12)
    assert objective(facts, found.patterns) == pytest.approx(found.objective)
    assert dropped(units, found) == least == sum(map(zeros, units, found.patterns))


def best_by_quarters(facts: list[UnitFacts], quarters: int) -> float:
    """Least objective with at least so many quarters of a block dropped in all, by dynamic programming."""
    options = {pattern: round(4 * pattern.sparsity) for pattern in MENU}
    ends = (min(unit.outlier_share for unit in facts), max(unit.outlier_share for unit in facts))
    localities = (min(unit.locality for unit in facts), max(unit.locality for unit in facts))
    best = {0: 0.0}
    for one in facts:
        O = (one.outlier_share - ends[0]) / (ends[1] - ends[0])  # noqa: E741
        D = (one.locality - localities[0]) / (localities[1] - localities[0])
        reached: dict[int, float] = {}
        for so_far, cost in best.items():
            for pattern, taken in options.items():
                pairs = [(4, 4), (8, 8)] if pattern.is_dense else [(pattern.n, pattern.m)]
                here = cost + min(abs(n - 8 * O) + 4 * abs(m - 8 * (1 - D)) for n, m in pairs)
                reached[so_far + taken] = min(here, reached.get(so_far + taken, np.inf))
        best = reached
    return min(cost for taken, cost in best.items() if taken >= quarters)


@pytest.mark.parametrize("target", [0.1, 0.33, 0.5, 0.6, 0.65, 0.7, 0.75])
def test_forty_blocks_equal_dynamic_programming(target):
    rng = np.random.default_rng(40)
    facts = [UnitFacts(float(rng.random()), float(rng.random())) for _ in range(40)]
    found = paper([unit((64, 64))] * 40, facts, target)
    assert found.objective == pytest.approx(best_by_quarters(facts, int(np.ceil(round(target * 160, 6)))), abs=1e-5)


@pytest.mark.parametrize("count", [1, 2, 5, 12, 31, 80])
def test_every_target_up_to_the_largest_sparsity_is_feasible(count):
    rng = np.random.default_rng(count)
    units = [unit((64, 64))] * count
    facts = [UnitFacts(float(rng.random()), float(rng.random())) for _ in range(count)]
    for target in np.arange(0, 76, 3) / 100:
        assert dropped(units, paper(units, facts, float(target))) >= target * total(units)
    assert dropped(units, paper(units, facts, 0.75)) == 0.75 * total(units)


@pytest.mark.parametrize("seed", range(5))
def test_many_large_blocks_of_unlike_shapes_are_no_numerical_trouble(seed):
    rng = np.random.default_rng(seed)
    units = [unit((int(rows), int(columns))) for rows, columns in rng.integers(8, 30_000, (70, 2))]
    facts = [UnitFacts(float(rng.random()), float(rng.random())) for _ in units]
    for target in (0.3, 0.55, 0.6, 0.7):
        found = dropped(units, paper(units, facts, target)) / total(units)
        # Where the target decides, so many unlike blocks meet it closely.
        assert target <= found
        assert target == 0.3 or found < target + 0.02


def test_the_target_counts_weights_not_blocks():
    units = [unit((100, 80)), unit((10, 80))]
    # Dropping the whole small block reaches 1/11 of the weights, where a mean over blocks would be content.
    found = paper(units, [UnitFacts(0.0, 0.0), UnitFacts(1.0, 0.0)], 0.5)
    assert dropped(units, found) >= 0.5 * total(units)
    assert found.patterns[0] != DENSE


def test_the_hardwares_menu_limits_the_candidates():
    units, facts = [unit((8, 8))] * 2, [UnitFacts(0.0, 0.0), UnitFacts(1.0, 0.5)]
    found = select_paper(pose(units, PRESETS["fixed-2-4"].patterns, SparsityBudget(0.5)), facts)
    assert set(found.patterns) == {HALF}
    dense = select_paper(pose(units, PRESETS["dense"].patterns, SparsityBudget(0)), facts)
    assert set(dense.patterns) == {DENSE}
    with pytest.raises(
        SelectionError, match=r"must have one of the paper's candidates 1:1 4:8 2:4 2:8, but it is 1:4 1:2$"
    ):
        select_paper(pose(units, [Pattern(1, 4), Pattern(1, 2)], SparsityBudget(0.1)), facts)


def test_ties_drop_least_where_the_outliers_are():
    # With D' = 0, m = 8 costs nothing, and above O' = 0.5 going from 4:8 to 2:8 costs |2 - 8 O'| - |4 - 8 O'| = 2
    # everywhere. This target asks for it in two of five such blocks, so there are ten solutions of equal cost.
    shares = (1.0, 0.7, 0.5, 0.6, 0.0, 0.65, 0.55)
    units = [unit((8, 64))] * 7
    found = paper(units, [UnitFacts(share, 0.0) for share in shares], 0.53)
    assert dropped(units, found) == 3.75 / 7 * total(units)
    patterns = {share: str(pattern) for share, pattern in zip(shares, found.patterns, strict=True)}
    assert patterns == {0.0: "2:8", 0.5: "2:8", 0.55: "2:8", 0.6: "4:8", 0.65: "4:8", 0.7: "4:8", 1.0: "1:1"}


def test_reasons_say_whether_the_target_decided():
    units, facts = [unit((8, 64))] * 2, [UnitFacts(0.0, 0.0), UnitFacts(1.0, 0.0)]
    free, forced = (paper(units, facts, target).choices[1] for target in (0.0, 0.75))
    assert free.reason == "O' = 1.000 and D' = 0.000 make 1:1 cost 0.00, the least for this block"
    assert forced.reason == (
        "O' = 1.000 and D' = 0.000 make 2:8 cost 6.00, taken for the target, as 1:1 is the cheapest for this block"
    )


def test_the_objective_refuses_what_it_cannot_price():
    facts = [UnitFacts(0.0, 0.0)]
    with pytest.raises(ValueError, match="1 blocks need as many patterns, not 2"):
        objective(facts, [DENSE, DENSE])
    with pytest.raises(ValueError, match="pattern 1:3 is none of the paper's candidates 1:1 4:8 2:4 2:8"):
        objective(facts, [Pattern(1, 3)])


# --- The knapsack -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_the_knapsack_equals_exhaustive_search(seed):
    rng = np.random.default_rng(seed)
    units, patterns = int(rng.integers(1, 6)), int(rng.integers(1, 5))
    # Costs of loss are tiny, and may be negative in a model that is pruned already.
    costs = rng.normal(size=(units, patterns)) * 10.0 ** rng.integers(-6, 2)
    resources = rng.integers(0, 50, (units, patterns)) * int(rng.integers(1, 1000))
    least, most = resources.min(axis=1).sum(), resources.max(axis=1).sum()
    limit = int(rng.integers(least, most + 1))
    rows = np.arange(units)
    best = min(
        costs[rows, list(columns)].sum()
        for columns in itertools.product(range(patterns), repeat=units)
        if resources[rows, list(columns)].sum() <= limit
    )
    found = solve_knapsack(costs, resources, limit)
    assert resources[rows, found].sum() <= limit
    assert costs[rows, found].sum() == pytest.approx(best, rel=1e-6, abs=1e-6 * np.abs(costs).max())


def test_the_knapsack_refuses_what_has_no_answer():
    with pytest.raises(ValueError, match="no choice takes at most 3, the least is 4"):
        solve_knapsack(np.zeros((2, 2)), np.full((2, 2), 2), 3)
    with pytest.raises(ValueError, match="the costs of a knapsack must be finite"):
        solve_knapsack(np.array([[np.nan]]), np.ones((1, 1), dtype=np.int64), 3)


def test_the_solver_prints_nothing(capfd):
    rng = np.random.default_rng(0)
    for _ in range(100):
        solve_knapsack(rng.random((8, 4)), rng.integers(1, 9, (8, 4)), 40)
    print("after")
    assert capfd.readouterr() == ("after\n", "")


def test_the_cheapest_choice_names_what_it_costs():
    problem = pose([unit((8, 8)), unit((8, 8))], [DENSE, HALF], SparsityBudget(0.25))
    found = select_cheapest(problem, np.array([[0.0, 0.5], [0.0, 0.25]]))
    assert found.patterns == (DENSE, HALF)
    assert [choice.reason for choice in found.choices] == [
        "knapsack: 1:1 by itself adds 0.00e+00 nats to the loss",
        "knapsack: 2:4 by itself adds 2.50e-01 nats to the loss, 1:1 would add 0.00e+00",
    ]
    assert found.objective == 0.25


# --- The uniform one, and OWL -----------------------------------------------------------------------------------------


def test_one_pattern_for_all_where_one_meets_the_target():
    problem = pose([unit((8, 80))] * 3, WIDE, SparsityBudget(0.5))
    assert set(select_uniform(problem).patterns) == {Pattern(4, 8)}
    answers = {mix.patterns[0] for mix in uniform_mixes(problem)}
    assert answers == {Pattern(1, 2), Pattern(2, 4), Pattern(4, 8)}
    assert select_uniform(pose([unit((8, 80))], WIDE, SparsityBudget(0))).patterns == (DENSE,)


def test_between_two_densities_the_first_units_are_sparser():
    problem = pose([unit((8, 40))] * 4, [DENSE, HALF, QUARTER], SparsityBudget(0.55))
    found = select_uniform(problem)
    assert [str(pattern) for pattern in found.patterns] == ["2:8", "2:4", "2:4", "2:4"]
    assert found.choices[0].reason == "2:8 for the first 1 of 4, 2:4 for the others"


@pytest.mark.parametrize("seed", range(10))
def test_mixes_keep_the_budget_and_waste_less_than_one_unit(seed):
    rng = np.random.default_rng(seed)
    units, _ = random_units(rng, 6, equal=False)
    problem = pose(units, WIDE, SparsityBudget(float(rng.random() * 0.7)))
    for mix in uniform_mixes(problem):
        assert mix.used <= problem.limit
        sparser = list(map(problem.patterns.index, mix.patterns))
        spared = (problem.resources - problem.resources[np.arange(6), sparser][:, None]).max()
        assert problem.limit - mix.used <= spared


def test_owl_keeps_more_where_the_outliers_are():
    problem = pose([unit((8, 80))] * 3, PRESETS["wide"].patterns, SparsityBudget(0.6))
    found = select_owl(problem, [0.01, 0.02, 0.03], m=8)
    assert {pattern.m for pattern in found.patterns} <= {1, 8}
    assert [pattern.density for pattern in found.patterns] == sorted(pattern.density for pattern in found.patterns)
    assert found.patterns[0] != found.patterns[2]
    assert found.used <= problem.limit
    assert found.choices[0].reason.startswith("1.00% outliers ask for a density of 0.3")


def test_owl_needs_patterns_of_one_m():
    problem = pose([unit((8, 80))], [Pattern(4, 5), Pattern(2, 8)], SparsityBudget(0.6))
    assert select_owl(problem, [0.1]).patterns == (Pattern(2, 8),)
    with pytest.raises(
        SelectionError, match="OWL needs patterns of one m that reach the budget, but the menu is 4:5 2:8"
    ):
        select_owl(problem, [0.1], m=5)


# --- Units ------------------------------------------------------------------------------------------------------------


def test_units_are_layers_or_blocks():
    blocks = [("a", [("a.x", (2, 4)), ("a.y", (3, 4))]), ("empty", []), ("b", [("b.x", (5, 6))])]
    assert [one.name for one in units_of(blocks, by_block=False)] == ["a.x", "a.y", "b.x"]
    by_block = units_of(blocks, by_block=True)
    assert [(one.name, one.layers, one.weights) for one in by_block] == [("a", ("a.x", "a.y"), 20), ("b", ("b.x",), 30)]


def test_a_restricted_problem_counts_the_same():
    problem = pose([unit((8, 80))] * 2, WIDE, SparsityBudget(0.5))
    some = problem.restricted([3, 0])
    assert isinstance(some, Problem)
    assert some.patterns == (WIDE[3], WIDE[0])
    assert some.used([0, 1]) == problem.used([3, 0])
