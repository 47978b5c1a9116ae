"""The same for all: one pattern for every unit, or a mix of two neighbours in layer order."""

from __future__ import annotations

import numpy as np

from flexcim_flow.choice.evidence import Evidence, Selection
from flexcim_flow.choice.problem import Assignment, Choice, Problem
from flexcim_flow.choice.selector import Selector

__all__ = ["UNIFORM", "select_uniform", "uniform_mixes"]


def select_uniform(problem: Problem) -> Assignment:
    """Choose one pattern for all units; between two patterns, the first units get the sparser one.

    Of patterns that take the same share of the budget, the one with the largest m is taken, as it leaves the mask the
    most freedom.
    """
    return max(uniform_mixes(problem), key=lambda mix: (mix.used, max(pattern.m for pattern in mix.patterns)))


def uniform_mixes(problem: Problem) -> tuple[Assignment, ...]:
    """All uniform answers to a problem: each pattern that meets the budget exactly enough by itself, and the mixes of
    its two neighbours where none does.

    The neighbours are the pattern that takes least over the limit, and the one that takes most within it; where several
    patterns take the same, each pair is a mix of its own.
    """
    totals = problem.resources.sum(axis=0)
    within, over = totals <= problem.limit, totals > problem.limit
    sparser = np.flatnonzero(within & (totals == totals[within].max()))
    if totals[sparser[0]] == problem.limit or not over.any():
        return tuple(_mix(problem, int(column), int(column)) for column in sparser)
    denser = np.flatnonzero(over & (totals == totals[over].min()))
    return tuple(_mix(problem, int(low), int(high)) for low in sparser for high in denser)


def _mix(problem: Problem, sparser: int, denser: int) -> Assignment:
    """The first units sparser, the others denser, as few sparser as the limit allows."""
    resources = problem.resources
    saved = resources[:, denser] - resources[:, sparser]
    excess = int(resources[:, denser].sum()) - problem.limit
    first = int(np.searchsorted(np.cumsum(saved), excess)) + 1 if excess > 0 else 0
    columns = [sparser if row < first else denser for row in range(len(problem.units))]
    low, high = problem.patterns[sparser], problem.patterns[denser]
    reason = f"{high} for all" if first == 0 else f"{low} for all"
    if 0 < first < len(columns):
        reason = f"{low} for the first {first} of {len(columns)}, {high} for the others"
    choices = tuple(Choice(problem.patterns[column], 0.0, reason) for column in columns)
    return Assignment("uniform", choices, problem.used(columns))


def _choose(problem: Problem, evidence: Evidence) -> Selection:
    return Selection(select_uniform(problem))


UNIFORM = Selector(choose=_choose, needs=lambda problem, units, samples: None)
"""One pattern for all, or a mix of the two neighbours in layer order."""
