"""Budgets: what a pattern takes of it in a layer, and how much all layers may take together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np

from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.macro.cycles import program_cycles
from flexcim.packed.tiling import tile_layer
from flexcim_flow.choice.problem import Problem, SelectionError, Unit
from flexcim_flow.layer.masks import kept_weights

__all__ = ["Budget", "CycleBudget", "SparsityBudget", "StorageBudget", "parse_budget", "pose"]

_DENSE = Pattern(1, 1)


class Budget(Protocol):
    """What limits a selection."""

    def takes(self, outputs: int, inputs: int, pattern: Pattern) -> int:
        """What a layer takes under a pattern; more the denser it is, as a rule."""

    def limit(self, dense: int) -> int:
        """What all layers may take, where ``dense`` is what they take unpruned."""

    def unreachable(self, least: int, dense: int) -> str:
        """One sentence for a budget below ``least``, naming the nearest one."""


@dataclass(frozen=True)
class SparsityBudget:
    """At least a share of the weights is dropped.

    Parameters
    ----------
    sparsity : float
        The share, 0 to 1, meant as the decimal that it prints as: in binary, 0.55 of 100 weights would be a little more
        than 55 of them.

    Raises
    ------
    SelectionError
        If the share is not between 0 and 1.
    """

    sparsity: float

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity <= 1:
            raise SelectionError(f"sparsity must be between 0 and 1, not {self.sparsity}")

    def __str__(self) -> str:
        return f"sparsity of at least {self.sparsity:.2%}"

    def takes(self, outputs: int, inputs: int, pattern: Pattern) -> int:
        """Weights that are kept, remainders counted as they are."""
        return kept_weights(outputs, inputs, pattern)

    def limit(self, dense: int) -> int:
        """Weights that may be kept."""
        return dense - math.ceil(Fraction(str(self.sparsity)) * dense)

    def unreachable(self, least: int, dense: int) -> str:
        """Names the largest sparsity, rounded down so that it can be typed in again."""
        nearest = math.floor((dense - least) / dense * 10_000) / 10_000
        return f"sparsity {self.sparsity} is out of reach for this menu and model, the nearest is {nearest}"


def _check_share(name: str, share: float) -> None:
    if not 0 < share <= 1:
        raise SelectionError(
            f"a budget of {name} must be a share of the dense model, above 0 and at most 1, not {share}"
        )


def _nearest_share(least: int, dense: int) -> float:
    """The least share that can be reached, rounded up so that it can be typed in again."""
    return math.ceil(least / dense * 10_000) / 10_000


@dataclass(frozen=True)
class StorageBudget:
    """The stored weights take at most a share of what they take dense.

    A stored weight of n:m takes W bits and an offset of ceil(log2(m - n + 1)) bits, and each block of an output has n
    of them, whole or not (docs/architecture.md, section 2); a dense weight takes no offset.

    Parameters
    ----------
    share : float
        The share.
    config : MacroConfig
        Whose W counts.

    Raises
    ------
    SelectionError
        If the share is not above 0 and at most 1.
    """

    share: float
    config: MacroConfig

    def __post_init__(self) -> None:
        _check_share("bytes", self.share)

    def __str__(self) -> str:
        return f"at most {self.share:.2%} of the dense model's bytes"

    def takes(self, outputs: int, inputs: int, pattern: Pattern) -> int:
        """Bits of the slots."""
        slots = outputs * -(-inputs // pattern.m) * pattern.n
        return slots * (self.config.weight_bits + pattern.max_offset.bit_length())

    def limit(self, dense: int) -> int:
        """Bits that may be stored."""
        return math.floor(Fraction(str(self.share)) * dense)

    def unreachable(self, least: int, dense: int) -> str:
        """Names the least share."""
        nearest = _nearest_share(least, dense)
        return f"a share of {self.share} of the bytes is out of reach for this menu, the nearest is {nearest}"


@dataclass(frozen=True)
class CycleBudget:
    """The layers take at most a share of the cycles that they take dense, one after the other on one macro.

    Each layer is tiled as it will be, and its program counted by the exact cycle model. In one program of all layers
    the loads of a layer's first tiles would overlap the layer before and its latency be paid once, so that the sum here
    is never too small.

    Parameters
    ----------
    share : float
        The share.
    config : MacroConfig
        The macro; it must have the dense pattern on its menu.
    vectors : int
        Vectors that pass each layer.

    Raises
    ------
    SelectionError
        If the share is not above 0 and at most 1, there is no vector, or the menu has no dense pattern.
    """

    share: float
    config: MacroConfig
    vectors: int

    def __post_init__(self) -> None:
        _check_share("cycles", self.share)
        if self.vectors < 1:
            raise SelectionError(f"a budget of cycles needs at least one vector, not {self.vectors}")
        if _DENSE not in self.config.patterns:
            raise SelectionError("a budget of cycles is a share of the dense ones, but the menu has no 1:1")

    def __str__(self) -> str:
        return f"at most {self.share:.2%} of the dense model's cycles for {self.vectors} vectors"

    def takes(self, outputs: int, inputs: int, pattern: Pattern) -> int:
        """Cycles of the layer's program."""
        tiling = tile_layer(self.config, outputs, inputs, pattern, vectors=self.vectors)
        return program_cycles(self.config, tiling.program(self.vectors)).cycles

    def limit(self, dense: int) -> int:
        """Cycles that all layers may take."""
        return math.floor(Fraction(str(self.share)) * dense)

    def unreachable(self, least: int, dense: int) -> str:
        """Names the least share."""
        return (
            f"a share of {self.share} of the cycles is out of reach for {self.vectors} vectors on this macro, "
            f"the nearest is {_nearest_share(least, dense)}"
        )


def parse_budget(text: str, config: MacroConfig, vectors: int) -> Budget:
    """Read ``sparsity=0.6``, ``bytes=0.5`` or ``cycles=0.5``.

    Raises
    ------
    SelectionError
        If the text is none of these, or the number is no budget.
    """
    name, _, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        raise SelectionError(f"a budget must be written like cycles=0.5, not {text!r}") from None
    if name == "sparsity":
        return SparsityBudget(value)
    if name == "bytes":
        return StorageBudget(value, config)
    if name == "cycles":
        return CycleBudget(value, config, vectors)
    raise SelectionError(f"a budget must be of sparsity, bytes or cycles, not of {name!r}")


def pose(units: Sequence[Unit], patterns: Sequence[Pattern], budget: Budget) -> Problem:
    """The problem that a budget makes of a model's units.

    The shapes alone tell, so this can be asked before anything is calibrated.

    Raises
    ------
    ValueError
        If there is no unit or no pattern.
    SelectionError
        If the budget is out of reach.
    """
    if not units:
        raise ValueError("a selection needs at least one unit")
    if not patterns:
        raise ValueError("a selection needs at least one pattern")
    shapes = {shape for unit in units for shape in unit.shapes}  # most layers share a few
    takes = {(shape, pattern): budget.takes(*shape, pattern) for shape in shapes for pattern in {*patterns, _DENSE}}
    resources = np.array(
        [[sum(takes[shape, pattern] for shape in unit.shapes) for pattern in patterns] for unit in units],
        dtype=np.int64,
    )
    dense = sum(takes[shape, _DENSE] for unit in units for shape in unit.shapes)
    limit = budget.limit(dense)
    least = int(resources.min(axis=1).sum())
    if least > limit:
        raise SelectionError(budget.unreachable(least, dense))
    return Problem(tuple(units), tuple(patterns), resources, limit)
