"""OWL's selection: a unit with more outliers keeps more of each m (Yin et al., arXiv 2310.05175)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flexcim_flow.choice.evidence import Evidence, Selection
from flexcim_flow.choice.knapsack import solve_knapsack
from flexcim_flow.choice.outliers import outliers_of
from flexcim_flow.choice.problem import Assignment, Choice, Problem, SelectionError
from flexcim_flow.choice.selector import Selector

__all__ = ["OWL", "OWL_LAMBDA", "select_owl"]

OWL_LAMBDA = 0.08
"""Most that a unit's density may differ from the mean one; the value that its authors use for most models."""


def select_owl(problem: Problem, outlier_shares: Sequence[float], m: int | None = None) -> Assignment:
    """Choose n by the share of outliers, at one m for all.

    OWL gives unit i the density S - lambda + 2 * lambda * (D_i - min D) / (max D - min D), shifted so that the mean is
    the target, and rounds to n:m. Here the patterns that are nearest to those densities in the sum of squares, by the
    weights, are chosen exactly within the budget.

    Parameters
    ----------
    problem : Problem
        The problem.
    outlier_shares : sequence of float
        D of each unit: share of its scores above a multiple of their mean.
    m : int, optional
        The m of all patterns; by default the one with the most patterns on the menu, of equals the largest, among those
        that can keep the budget.

    Raises
    ------
    SelectionError
        If the menu has no pattern of that m that keeps the budget.
    """
    problem = _at_one_m(problem, m)
    weights = np.array([unit.weights for unit in problem.units], dtype=np.float64)
    densities = np.array([pattern.density for pattern in problem.patterns])
    wanted = _densities(problem, np.asarray(outlier_shares, dtype=np.float64), weights, densities)
    costs = weights[:, np.newaxis] * (wanted[:, np.newaxis] - densities) ** 2
    chosen = solve_knapsack(costs, problem.resources, problem.limit)
    choices = tuple(
        Choice(
            problem.patterns[column],
            float(costs[row, column]),
            f"{outlier_shares[row]:.2%} outliers ask for a density of {wanted[row]:.3f}",
        )
        for row, column in enumerate(chosen)
    )
    return Assignment("owl", choices, problem.used(chosen))


def _at_one_m(problem: Problem, m: int | None) -> Problem:
    """The problem with dense and the patterns of one m."""

    def columns(m: int) -> list[int]:
        return [column for column, pattern in enumerate(problem.patterns) if pattern.m == m or pattern.is_dense]

    def keeps_budget(m: int) -> bool:
        return bool(problem.resources[:, columns(m)].min(axis=1).sum() <= problem.limit)

    sizes = {pattern.m for pattern in problem.patterns}
    able = [size for size in sizes if keeps_budget(size)]
    if m is None and able:
        m = max(able, key=lambda size: (len(columns(size)), size))
    if m not in able:
        offered = " ".join(map(str, problem.patterns))
        raise SelectionError(f"OWL needs patterns of one m that reach the budget, but the menu is {offered}")
    return problem.restricted(columns(m))


def _densities(
    problem: Problem, shares: NDArray[np.float64], weights: NDArray[np.float64], densities: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The density that OWL asks for in each unit; the mean over the weights is what the budget allows."""
    # The budget's resource grows with the density; between two patterns it is taken as linear.
    totals = problem.resources.sum(axis=0)
    order = np.argsort(totals)
    mean = float(np.interp(problem.limit, totals[order], densities[order]))
    spread = shares - shares.min()
    if spread.max() > 0:
        spread = spread / spread.max() * 2 * OWL_LAMBDA
    wanted: NDArray[np.float64] = spread - np.average(spread, weights=weights) + mean
    return wanted


def _choose(problem: Problem, evidence: Evidence) -> Selection:
    return Selection(select_owl(problem, [found.share for found in outliers_of(evidence)]))


OWL = Selector(
    choose=_choose,
    overshoot="its patterns share one m, and it takes those nearest to the densities that it wants within the budget",
)
"""Outlier-weighed n at one m."""
