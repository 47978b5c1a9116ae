"""The published selection: outliers and their locality price the patterns, an integer program chooses (arXiv
2504.14365)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from flexcim.config.pattern import Pattern
from flexcim_flow.choice.evidence import Evidence, Selection
from flexcim_flow.choice.knapsack import solve_knapsack
from flexcim_flow.choice.outliers import outliers_of
from flexcim_flow.choice.problem import Assignment, Choice, Problem, SelectionError
from flexcim_flow.choice.selector import Selector
from flexcim_flow.common.options import Granularity

__all__ = ["CANDIDATES", "PAPER", "UnitFacts", "candidates", "facts_of", "objective", "select_paper"]

CANDIDATES: Mapping[Pattern, tuple[tuple[int, int], ...]] = MappingProxyType(
    {
        Pattern(1, 1): ((4, 4), (8, 8)),
        Pattern(4, 8): ((4, 8),),
        Pattern(2, 4): ((2, 4),),
        Pattern(2, 8): ((2, 8),),
    }
)
"""The paper's candidates, each with the pairs (n, m) that its cost is computed for: it has dense as 4:4 and 8:8."""


@dataclass(frozen=True)
class UnitFacts:
    """What the published objective knows about one block, or layer.

    Parameters
    ----------
    outlier_share : float
        O, share of its weights that are outliers.
    locality : float
        D, 1 / mean distance between two outliers.
    """

    outlier_share: float
    locality: float


def objective(facts: Sequence[UnitFacts], assignment: Sequence[Pattern]) -> float:
    """What the integer program minimises, for patterns that are given: the sum over the blocks of
    1 * |n - 8 O'| + 4 * |m - 8 (1 - D')|, with O' and D' min-max normalised over the blocks (arXiv 2504.14365).

    Dense costs what the cheaper one of 4:4 and 8:8 costs.

    Raises
    ------
    ValueError
        If the blocks and the patterns differ in number, or a pattern is no candidate.
    """
    if len(facts) != len(assignment):
        raise ValueError(f"{len(facts)} blocks need as many patterns, not {len(assignment)}")
    patterns = list(CANDIDATES)
    for pattern in assignment:
        if pattern not in CANDIDATES:
            raise ValueError(f"pattern {pattern} is none of the paper's candidates {' '.join(map(str, CANDIDATES))}")
    costs = _costs(*_normalised(facts), patterns)
    return float(sum(costs[row, patterns.index(pattern)] for row, pattern in enumerate(assignment)))


def candidates(menu: Sequence[Pattern]) -> tuple[Pattern, ...]:
    """The published candidates that a menu has.

    Raises
    ------
    SelectionError
        If it has none of them.
    """
    found = tuple(pattern for pattern in CANDIDATES if pattern in menu)
    if not found:
        raise SelectionError(
            f"the menu must have one of the paper's candidates {' '.join(map(str, CANDIDATES))}, "
            f"but it is {' '.join(map(str, menu))}"
        )
    return found


def select_paper(problem: Problem, facts: Sequence[UnitFacts]) -> Assignment:
    """Choose by the published objective, exactly.

    The paper asks for a mean sparsity *equal* to the target, over blocks of equal weight; most targets have no such
    solution. Here a block counts by its weights, and the budget is a bound, so every budget that the menu can keep has
    a solution. Where the cost by itself prefers more sparsity than that, that is what comes out. Optima are often tied.
    Of equal costs the one that takes most of the budget is taken, then the choice that keeps most where the share of
    outliers is high.

    Parameters
    ----------
    problem : Problem
        The problem; patterns that the paper has not are left out.
    facts : sequence of UnitFacts
        One for each unit.

    Raises
    ------
    SelectionError
        If the menu has none of the candidates.
    """
    problem = problem.restricted([problem.patterns.index(pattern) for pattern in candidates(problem.patterns)])
    outliers, clustering = _normalised(facts)
    costs = _costs(outliers, clustering, problem.patterns)
    kept = problem.resources.astype(np.float64)
    chosen = solve_knapsack(costs, problem.resources, problem.limit, ties=(-kept, -kept * outliers[:, np.newaxis]))

    def choice(row: int, column: int) -> Choice:
        pattern, cheapest = problem.patterns[column], problem.patterns[int(costs[row].argmin())]
        cost = float(costs[row, column])
        reason = f"O' = {outliers[row]:.3f} and D' = {clustering[row]:.3f} make {pattern} cost {cost:.2f}"
        if pattern == cheapest:
            return Choice(pattern, cost, f"{reason}, the least for this block")
        return Choice(pattern, cost, f"{reason}, taken for the target, as {cheapest} is the cheapest for this block")

    return Assignment(
        "paper", tuple(choice(row, int(column)) for row, column in enumerate(chosen)), problem.used(chosen)
    )


def _normalised(facts: Sequence[UnitFacts]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """O' and D'."""
    return _stretch([unit.outlier_share for unit in facts]), _stretch([unit.locality for unit in facts])


def _stretch(values: Sequence[float]) -> NDArray[np.float64]:
    """Stretch values to 0 ... 1 (min-max); 0 everywhere if all are equal."""
    array = np.asarray(values, dtype=np.float64)
    low, high = array.min(), array.max()
    return (array - low) / (high - low) if high > low else np.zeros_like(array)


def _costs(
    outliers: NDArray[np.float64], clustering: NDArray[np.float64], patterns: Sequence[Pattern]
) -> NDArray[np.float64]:
    """Cost of each pattern for each block, |n - 8 O'| + 4 |m - 8 (1 - D')| (arXiv 2504.14365), [blocks, patterns]."""
    columns = []
    for pattern in patterns:
        pairs = [np.abs(n - 8 * outliers) + 4 * np.abs(m - 8 * (1 - clustering)) for n, m in CANDIDATES[pattern]]
        columns.append(np.minimum.reduce(pairs))
    return np.stack(columns, axis=1)


def facts_of(evidence: Evidence) -> list[UnitFacts]:
    """The facts of each unit, by its scores in the dense model."""
    return [UnitFacts(found.share, found.locality) for found in outliers_of(evidence)]


def _choose(problem: Problem, evidence: Evidence) -> Selection:
    return Selection(select_paper(problem, facts_of(evidence)))


PAPER = Selector(choose=_choose, menu=candidates, granularity=Granularity.BLOCK)
"""The published objective, solved exactly."""
