"""FLOW's selection: one pattern for each block, chosen by an integer program."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from flexcim.errors import FlexCiMError
from flexcim.pattern import Pattern
from flow.masks import kept_weights

__all__ = ["CANDIDATES", "BlockFacts", "Choice", "Selection", "SelectionError", "check_target", "objective", "select"]

CANDIDATES: Mapping[Pattern, tuple[tuple[int, int], ...]] = MappingProxyType(
    {
        Pattern(1, 1): ((4, 4), (8, 8)),
        Pattern(4, 8): ((4, 8),),
        Pattern(2, 4): ((2, 4),),
        Pattern(2, 8): ((2, 8),),
    }
)
"""FLOW's candidates, each with the pairs (n, m) that its cost is computed for: the paper has dense as 4:4 and 8:8."""


Shapes: TypeAlias = tuple[tuple[int, int], ...]
"""(outputs, inputs) of each linear layer of a block."""


class SelectionError(FlexCiMError):
    """A target that no choice of patterns reaches; the message is one sentence that names the nearest one."""


@dataclass(frozen=True)
class BlockFacts:
    """What the selection knows about one block.

    Parameters
    ----------
    outlier_share : float
        O, share of the block's weights that are outliers.
    locality : float
        D, 1 / mean distance between two outliers.
    shapes : Shapes
        (outputs, inputs) of each of its linear layers.
    """

    outlier_share: float
    locality: float
    shapes: Shapes


@dataclass(frozen=True)
class Choice:
    """The pattern of one block, and why.

    Parameters
    ----------
    pattern : Pattern
        The pattern of all the block's linear layers.
    cost : float
        What it costs in the objective.
    cheapest : Pattern
        What the block would take if there were no target.
    outliers, clustering : float
        O' and D', the block's outlier share and locality normalised over all blocks, 0 to 1.
    """

    pattern: Pattern
    cost: float
    cheapest: Pattern
    outliers: float
    clustering: float

    @property
    def reason(self) -> str:
        """Why this pattern, for a reader."""
        facts = f"O' = {self.outliers:.3f} and D' = {self.clustering:.3f} make {self.pattern} cost {self.cost:.2f}"
        if self.pattern == self.cheapest:
            return f"{facts}, the least for this block"
        return f"{facts}, taken for the target, as {self.cheapest} is the cheapest for this block"


@dataclass(frozen=True)
class Selection:
    """The patterns of all blocks.

    Parameters
    ----------
    choices : tuple of Choice
        One for each block.
    objective : float
        The sum of their costs.
    sparsity : float
        Share of all weights that the patterns drop.
    """

    choices: tuple[Choice, ...]
    objective: float
    sparsity: float


def _normalise(values: Sequence[float]) -> NDArray[np.float64]:
    """Stretch values to 0 ... 1 over the blocks (min-max); 0 everywhere if all are equal."""
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


def objective(blocks: Sequence[BlockFacts], assignment: Sequence[Pattern]) -> float:
    """What the integer program minimises, for patterns that are given: the sum over the blocks of
    1 * |n - 8 O'| + 4 * |m - 8 (1 - D')|, with O' and D' min-max normalised over the blocks (arXiv 2504.14365).

    Dense costs what the cheaper one of 4:4 and 8:8 costs.

    Raises
    ------
    ValueError
        If the blocks and the patterns differ in number, or a pattern is no candidate.
    """
    if len(blocks) != len(assignment):
        raise ValueError(f"{len(blocks)} blocks need as many patterns, not {len(assignment)}")
    patterns = list(CANDIDATES)
    for pattern in assignment:
        if pattern not in CANDIDATES:
            raise ValueError(f"pattern {pattern} is none of FLOW's candidates {' '.join(map(str, CANDIDATES))}")
    outliers = _normalise([block.outlier_share for block in blocks])
    clustering = _normalise([block.locality for block in blocks])
    costs = _costs(outliers, clustering, patterns)
    return float(sum(costs[row, patterns.index(pattern)] for row, pattern in enumerate(assignment)))


def select(blocks: Sequence[BlockFacts], target: float, menu: Collection[Pattern]) -> Selection:
    """Choose one pattern for each block: the cheapest choice that drops at least ``target`` of all weights.

    The paper asks for a mean sparsity *equal* to the target, over blocks of equal weight; most targets have no such
    solution. Here a block counts by its weights, and the target is a lower bound, so every target up to the menu's
    largest sparsity has a solution. Where the cost by itself prefers more sparsity than the target, that is what comes
    out. Optima are often tied. Of equal costs the least sparsity is taken, then the choice that drops least where the
    share of outliers is high.

    Parameters
    ----------
    blocks : sequence of BlockFacts
        The blocks, at least one.
    target : float
        Share of the weights to drop, 0 to 1.
    menu : collection of Pattern
        What the hardware supports; candidates that are not on it are left out.

    Raises
    ------
    SelectionError
        If the menu has no candidate, or the target is out of reach.
    """
    if not blocks:
        raise ValueError("a selection needs at least one block")
    shapes = [block.shapes for block in blocks]
    needed = check_target(shapes, target, menu)
    patterns = _candidates(menu)
    zeros = _zeros(shapes, patterns)
    outliers = _normalise([block.outlier_share for block in blocks])
    clustering = _normalise([block.locality for block in blocks])
    costs = _costs(outliers, clustering, patterns)
    chosen = _solve(costs, zeros, needed, outliers)

    rows = np.arange(len(blocks))
    return Selection(
        choices=tuple(
            Choice(
                pattern=patterns[column],
                cost=float(costs[row, column]),
                cheapest=patterns[int(costs[row].argmin())],
                outliers=float(outliers[row]),
                clustering=float(clustering[row]),
            )
            for row, column in enumerate(chosen)
        ),
        objective=float(costs[rows, chosen].sum()),
        sparsity=int(zeros[rows, chosen].sum()) / _weights(shapes),
    )


def check_target(shapes: Sequence[Shapes], target: float, menu: Collection[Pattern]) -> int:
    """Weights to drop for a target; the shapes alone tell, so this can be asked before anything is calibrated.

    Parameters
    ----------
    shapes : sequence of Shapes
        (outputs, inputs) of each linear layer of each block.
    target : float
        Share of the weights to drop, 0 to 1.
    menu : collection of Pattern
        What the hardware supports.

    Raises
    ------
    SelectionError
        If the menu has no candidate, or the target is out of reach.
    """
    if not 0 <= target <= 1:
        raise SelectionError(f"sparsity must be between 0 and 1, not {target}")
    total = _weights(shapes)
    most = int(_zeros(shapes, _candidates(menu)).max(axis=1).sum())
    # As the decimal that was typed: in binary, 0.55 of 100 weights would be a little more than 55 of them.
    needed = math.ceil(Fraction(str(target)) * total)
    if needed > most:
        # Rounded down, so that the number can be typed in again.
        nearest = math.floor(most / total * 10_000) / 10_000
        raise SelectionError(f"sparsity {target} is out of reach for this menu and model, the nearest is {nearest}")
    return needed


def _candidates(menu: Collection[Pattern]) -> list[Pattern]:
    """FLOW's candidates that the menu has; SelectionError if there are none."""
    supported = set(menu)
    patterns = [pattern for pattern in CANDIDATES if pattern in supported]
    if not patterns:
        raise SelectionError(
            f"the menu must have one of FLOW's candidates {' '.join(map(str, CANDIDATES))}, "
            f"but it is {' '.join(map(str, sorted(supported)))}"
        )
    return patterns


def _weights(shapes: Sequence[Shapes]) -> int:
    """Weights of all blocks."""
    return sum(outputs * inputs for block in shapes for outputs, inputs in block)


def _zeros(shapes: Sequence[Shapes], patterns: Sequence[Pattern]) -> NDArray[np.int64]:
    """Weights that each pattern drops in each block, remainders counted as they are, [blocks, patterns]."""
    return np.array(
        [
            [
                sum(rows * columns - kept_weights(rows, columns, pattern) for rows, columns in block)
                for pattern in patterns
            ]
            for block in shapes
        ],
        dtype=np.int64,
    )


def _solve(
    costs: NDArray[np.float64], zeros: NDArray[np.int64], needed: int, outliers: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Solve the integer program, once for each criterion: the cost, then the excess, then where it drops.

    Parameters
    ----------
    costs : float64 [blocks, patterns]
        What each pattern costs in each block.
    zeros : int64 [blocks, patterns]
        Weights that it drops there.
    needed : int
        Weights to drop in all.
    outliers : float64 [blocks]
        O', normalised outlier share of each block.

    Returns
    -------
    int64 [blocks]
        The column of each block's pattern.
    """
    blocks, patterns = costs.shape
    # Divided by their common factor, the counts of a model of equal blocks are 0, 2 and 3: no tolerance of the solver
    # can blur them. Those of unlike blocks are scaled down to where its tolerance of 1e-6 is less than one weight.
    unit = max(1, int(np.gcd.reduce(zeros, axis=None)))
    step = 1 / max(1.0, zeros.max() / unit / 1000)
    dropped = zeros / unit * step
    # As all counts are whole, half a step to the safe side changes nothing but the numerical margin.
    margin = step / 2
    one_each = LinearConstraint(np.kron(np.eye(blocks), np.ones((1, patterns))), 1, 1)
    constraints = [one_each, LinearConstraint(dropped.reshape(1, -1), lb=-(-needed // unit) * step - margin)]
    chosen: NDArray[np.int64] | None = None
    # HiGHS allows 1e-6 on a bound by itself; more slack on the cost would only give away some of the optimum.
    for criterion, slack in ((costs, 0.0), (dropped, margin), (dropped * outliers[:, np.newaxis], 0.0)):
        coefficients = criterion.ravel()
        result = milp(
            coefficients, integrality=1, bounds=Bounds(0, 1), constraints=constraints, options={"mip_rel_gap": 0}
        )
        if result.status != 0:
            break
        chosen = result.x.reshape(blocks, patterns).argmax(axis=1)
        constraints.append(LinearConstraint(coefficients.reshape(1, -1), ub=result.fun + slack))
    # A tie that the solver fails to break leaves an optimum all the same; failing on the cost does not.
    if chosen is None:
        raise RuntimeError(f"HiGHS found no optimal selection: {result.message}")
    found = int(zeros[np.arange(blocks), chosen].sum())
    if found < needed:
        raise RuntimeError(f"HiGHS answered with a selection that drops {found} weights where {needed} are needed")
    return chosen
