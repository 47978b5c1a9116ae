"""What a selector is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexcim.config.pattern import Pattern
from flexcim.errors import FlexCiMError

__all__ = [
    "Assignment",
    "Choice",
    "Problem",
    "SelectionError",
    "Shape",
    "Unit",
    "columns_of",
    "undominated",
    "units_of",
]

Shape = tuple[int, int]
"""(outputs, inputs) of a linear layer."""


class SelectionError(FlexCiMError):
    """A selection that is impossible; the message is one sentence, for a budget it names the nearest one."""


@dataclass(frozen=True)
class Unit:
    """What gets one pattern: a linear layer, or all of a block.

    Parameters
    ----------
    name : str
        Its path in the model.
    layers : tuple of str
        The paths of its linear layers.
    shapes : tuple of Shape
        Their shapes.
    """

    name: str
    layers: tuple[str, ...]
    shapes: tuple[Shape, ...]

    @property
    def weights(self) -> int:
        """Its weights."""
        return sum(outputs * inputs for outputs, inputs in self.shapes)


@dataclass(frozen=True, eq=False)
class Problem:
    """A budget, and what each pattern takes of it in each unit.

    Parameters
    ----------
    units : tuple of Unit
        In the model's order, at least one.
    patterns : tuple of Pattern
        The menu, at least one pattern.
    resources : int64 [units, patterns]
        What a pattern takes of the budget in a unit: kept weights, stored bits, cycles.
    limit : int
        What all units together may take at most; some assignment keeps it.
    """

    units: tuple[Unit, ...]
    patterns: tuple[Pattern, ...]
    resources: NDArray[np.int64]
    limit: int

    def used(self, columns: Sequence[int] | NDArray[np.int64]) -> int:
        """What an assignment, given as one column of ``patterns`` for each unit, takes."""
        return int(self.resources[np.arange(len(self.units)), np.asarray(columns)].sum())

    def restricted(self, columns: Sequence[int]) -> Problem:
        """The same with some of the patterns only."""
        return Problem(
            self.units, tuple(self.patterns[column] for column in columns), self.resources[:, list(columns)], self.limit
        )


@dataclass(frozen=True)
class Choice:
    """The pattern of one unit.

    Parameters
    ----------
    pattern : Pattern
        The pattern.
    cost : float
        What it costs in the selector's objective; NaN where nobody has measured it, as for a pattern set by hand.
    reason : str
        Why it was chosen, for a reader.
    """

    pattern: Pattern
    cost: float
    reason: str


@dataclass(frozen=True)
class Assignment:
    """A choice for each unit.

    Parameters
    ----------
    method : str
        Who chose.
    choices : tuple of Choice
        One for each unit of the problem.
    used : int
        What they take of the budget.
    """

    method: str
    choices: tuple[Choice, ...]
    used: int

    @property
    def objective(self) -> float:
        """The sum of the costs."""
        return sum(choice.cost for choice in self.choices)

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """The patterns by themselves."""
        return tuple(choice.pattern for choice in self.choices)


def units_of(blocks: Sequence[tuple[str, Sequence[tuple[str, Shape]]]], *, by_block: bool) -> tuple[Unit, ...]:
    """The units of a model.

    Parameters
    ----------
    blocks : sequence of (name, layers)
        The blocks in order; each layer is its name and shape.
    by_block : bool
        Whether all layers of a block share a pattern; blocks without layers are left out.
    """
    units = []
    for name, layers in blocks:
        if by_block and layers:
            units.append(Unit(name, tuple(layer for layer, _ in layers), tuple(shape for _, shape in layers)))
        elif not by_block:
            units += [Unit(layer, (layer,), (shape,)) for layer, shape in layers]
    return tuple(units)


def undominated(problem: Problem) -> list[int]:
    """Columns that are worth measuring: a mask of 2:4 is one of 4:8 too, so that 2:4 can only win by taking less."""

    def dominated(column: int) -> bool:
        pattern = problem.patterns[column]
        return any(
            other.m > pattern.m
            and _contains(other, pattern)
            and (problem.resources[:, index] <= problem.resources[:, column]).all()
            for index, other in enumerate(problem.patterns)
        )

    return [column for column in range(len(problem.patterns)) if not dominated(column)]


def columns_of(problem: Problem, patterns: Sequence[Pattern]) -> NDArray[np.int64]:
    """Columns of some patterns; for one that was left out as dominated, of the one that dominates it."""

    def column(pattern: Pattern) -> int:
        if pattern in problem.patterns:
            return problem.patterns.index(pattern)
        containing = [index for index, other in enumerate(problem.patterns) if _contains(other, pattern)]
        return min(containing, key=lambda index: int(problem.resources[:, index].sum()))

    return np.array([column(pattern) for pattern in patterns], dtype=np.int64)


def _contains(other: Pattern, pattern: Pattern) -> bool:
    """Whether each mask of a pattern is one of another pattern, too, and as dense."""
    return other.m % pattern.m == 0 and other.n * pattern.m == pattern.n * other.m
