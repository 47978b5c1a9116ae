"""The knapsack against exhaustive search, and what it refuses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from flexcim.config.pattern import Pattern
from flexcim_flow.choice.budgets import SparsityBudget, pose
from flexcim_flow.choice.knapsack import select_cheapest, solve_knapsack
from tests.support.choices import unit

pytestmark = pytest.mark.torch

DENSE, HALF = Pattern(1, 1), Pattern(2, 4)


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
