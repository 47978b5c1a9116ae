"""The multiple-choice knapsack: one pattern for each unit, least cost within the budget, solved exactly by HiGHS."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp

from flexcim_flow.choice.problem import Assignment, Choice, Problem

__all__ = ["explained", "select_cheapest", "solve_knapsack"]

_LARGEST = 1000.0
"""What the largest resource is scaled to: the solver's tolerance of 1e-6 is then far below one weight."""


def solve_knapsack(
    costs: NDArray[np.float64],
    resources: NDArray[np.int64],
    limit: int,
    ties: Sequence[NDArray[np.float64]] = (),
) -> NDArray[np.int64]:
    """Choose one column for each row, the least sum of costs whose resources stay within the limit.

    Parameters
    ----------
    costs : float64 [units, patterns]
        What each pattern costs.
    resources : int64 [units, patterns]
        What it takes of the budget.
    limit : int
        What all may take together.
    ties : sequence of float64 [units, patterns]
        Further costs, each minimised in turn among the optima of those before; the first ones are best the resources
        themselves, as the solver is exact in whole numbers only.

    Returns
    -------
    int64 [units]
        The chosen columns.

    Raises
    ------
    ValueError
        If no choice stays within the limit, or a cost is not finite.
    """
    if not np.isfinite(costs).all():
        raise ValueError("the costs of a knapsack must be finite")
    if resources.min(axis=1).sum() > limit:
        raise ValueError(f"no choice takes at most {limit}, the least is {resources.min(axis=1).sum()}")
    units, patterns = costs.shape
    # Divided by their common factor, the counts of a model of equal blocks are small: no tolerance can blur them. Those
    # of unlike blocks are scaled down to where it is less than one weight.
    factor = max(1, int(np.gcd.reduce(resources, axis=None)))
    step = 1 / max(1.0, resources.max() / factor / _LARGEST)
    taken = resources / factor * step
    # As all counts are whole, half a step to the safe side changes nothing but the numerical margin.
    margin = step / 2
    one_each = LinearConstraint(np.kron(np.eye(units), np.ones((1, patterns))), 1, 1)
    constraints = [one_each, LinearConstraint(taken.reshape(1, -1), ub=(limit // factor) * step + margin)]
    chosen: NDArray[np.int64] | None = None
    for criterion in (costs, *ties):
        # Costs of loss are tiny, and the solver's tolerances are absolute.
        scale = float(np.abs(criterion).max()) or 1.0
        coefficients = criterion.ravel() / scale
        result = _solve(coefficients, constraints)
        if result.status != 0:
            break
        chosen = result.x.reshape(units, patterns).argmax(axis=1)
        # HiGHS allows 1e-6 on a bound by itself; more slack would only give away some of the optimum.
        constraints.append(LinearConstraint(coefficients.reshape(1, -1), ub=result.fun))
    # A tie that the solver fails to break leaves an optimum all the same; failing on the cost does not.
    if chosen is None:
        raise RuntimeError(f"HiGHS found no optimal selection: {result.message}")
    used = int(resources[np.arange(units), chosen].sum())
    if used > limit:
        raise RuntimeError(f"HiGHS answered with a selection that takes {used} where at most {limit} is allowed")
    return chosen


def _solve(coefficients: NDArray[np.float64], constraints: Sequence[LinearConstraint]) -> OptimizeResult:
    with _silenced_stdout():
        return milp(
            coefficients, integrality=1, bounds=Bounds(0, 1), constraints=constraints, options={"mip_rel_gap": 0}
        )


@contextlib.contextmanager
def _silenced_stdout() -> Iterator[None]:
    """Keep what native code prints off the standard output.

    HiGHS through SciPy writes a stray line there in about one solve of a hundred, past Python's sys.stdout, so the file
    descriptor itself is turned away meanwhile. Threads that print at the same time are silenced with it.
    """
    sys.stdout.flush()
    try:
        saved = os.dup(1)
    except OSError:  # there is no standard output at all
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


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
