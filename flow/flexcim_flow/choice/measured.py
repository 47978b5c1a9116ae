"""The measured selection: what each pattern costs in loss is known, an exact knapsack chooses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flexcim_flow.choice.knapsack import solve_knapsack
from flexcim_flow.choice.problem import Assignment, Choice, Problem

__all__ = ["explained", "select_cheapest"]


def select_cheapest(problem: Problem, costs: NDArray[np.float64]) -> Assignment:
    """Choose the patterns whose costs add up to the least within the budget.

    Parameters
    ----------
    problem : Problem
        The problem.
    costs : float64 [units, patterns]
        Expected rise of the loss in nats per prediction if the unit alone gets the pattern (flexcim_flow.choice.costs).
    """
    return explained(problem, costs, solve_knapsack(costs, problem.resources, problem.limit), "knapsack")


def explained(problem: Problem, costs: NDArray[np.float64], columns: NDArray[np.int64], method: str) -> Assignment:
    """An assignment that is given as a column for each unit, with the costs as reasons."""

    def choice(row: int, column: int) -> Choice:
        cost = float(costs[row, column])
        return Choice(problem.patterns[column], cost, f"{method}: {_reason(problem, costs, row, column)}")

    choices = tuple(choice(row, int(column)) for row, column in enumerate(columns))
    return Assignment(method, choices, problem.used(columns))


def _reason(problem: Problem, costs: NDArray[np.float64], row: int, column: int) -> str:
    """What the pattern costs by itself, and what the next denser one would."""
    reason = f"{problem.patterns[column]} by itself adds {costs[row, column]:.2e} nats to the loss"
    denser = np.flatnonzero(problem.resources[row] > problem.resources[row, column])
    if not len(denser):
        return reason
    neighbour = denser[np.argmin(problem.resources[row, denser])]
    return f"{reason}, {problem.patterns[neighbour]} would add {costs[row, neighbour]:.2e}"
