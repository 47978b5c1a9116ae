"""A block's outliers: how many there are, and how closely they lie together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flexcim_flow.choice.evidence import Evidence
from flexcim_flow.layer.scores import wanda_scores

__all__ = ["OUTLIER_FACTOR", "Outliers", "find_outliers", "locality", "outliers_of", "pair_distance_sum"]

OUTLIER_FACTOR = 5.0
"""h: a score above h times the block's mean score is an outlier. The paper leaves h open; 5 is OWL's (arXiv
2310.05175)."""


@dataclass(frozen=True)
class Outliers:
    """What the selection asks about the outliers of one block.

    Parameters
    ----------
    count : int
        Number of outliers.
    total : int
        Number of weights of the block.
    locality : float
        D, 1 / mean distance between two outliers; 0 when there are fewer than two.
    """

    count: int
    total: int
    locality: float

    @property
    def share(self) -> float:
        """O, the share of the block's weights that are outliers."""
        return self.count / self.total


def find_outliers(scores: Sequence[Tensor], factor: float = OUTLIER_FACTOR) -> Outliers:
    """The scores above ``factor`` times the mean score of the block, all its linear layers together.

    An outlier's position is its flattened index over the block's layers in their order: layer by layer, in each layer
    output by output (row-major).

    Parameters
    ----------
    scores : sequence of Tensor
        Scores of each linear layer of the block, [outputs, inputs] each.
    factor : float
        h of the paper.

    Raises
    ------
    ValueError
        If there is no score.
    """
    total = sum(layer.numel() for layer in scores)
    if total == 0:
        raise ValueError("outliers need at least one score")
    threshold = factor * sum(layer.sum(dtype=torch.float64).item() for layer in scores) / total
    positions, start = [], 0
    for layer in scores:
        positions.append((layer.flatten() > threshold).nonzero().flatten() + start)
        start += layer.numel()
    found = torch.cat(positions)
    return Outliers(len(found), total, locality(found) if len(found) > 1 else 0.0)


def outliers_of(evidence: Evidence) -> list[Outliers]:
    """The outliers of each unit by Wanda's scores in the dense model."""
    found = []
    for unit in evidence.units:
        with evidence.holding([unit]):
            found.append(
                find_outliers([wanda_scores(layer.weight, evidence.dense[layer.name].norms) for layer in unit])
            )
    return found


def locality(positions: Tensor) -> float:
    """D, 1 / mean distance over all pairs of positions, exact up to the final division.

    Parameters
    ----------
    positions : Tensor
        At least two distinct positions in ascending order, [k], int64.

    Raises
    ------
    ValueError
        If there are fewer than two positions, or two are equal.
    """
    count = len(positions)
    if count < 2:
        raise ValueError(f"locality needs at least two positions, not {count}")
    if not (positions[1:] > positions[:-1]).all():
        raise ValueError("locality needs distinct positions in ascending order")
    return count * (count - 1) / 2 / pair_distance_sum(positions)


def pair_distance_sum(positions: Tensor) -> int:
    """Sum of |p_i - p_j| over all pairs i < j, exact, in O(k).

    In ascending order p_i is the larger one of i pairs and the smaller one of k - 1 - i, so the sum is
    sum_i p_i * (2i - k + 1).

    Parameters
    ----------
    positions : Tensor
        Positions in ascending order, none negative, [k], int64.
    """
    count = len(positions)
    if count < 2:
        return 0
    weights = 2 * torch.arange(count) - (count - 1)
    # The sum outgrows 64 bits (k = 10^7 positions below 2^30 reach 10^21). So the positions are taken in limbs that are
    # narrow enough for one limb's sum, k * k * 2^bits, to stay below 2^63; Python's integers add the limbs up.
    bits = 63 - 2 * count.bit_length()
    total = 0
    for shift in range(0, int(positions[-1]).bit_length(), bits):
        limb = (positions >> shift) & ((1 << bits) - 1)
        total += int(torch.dot(limb, weights)) << shift
    return total
