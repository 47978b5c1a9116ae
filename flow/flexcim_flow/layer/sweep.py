"""SparseGPT's sweep: masks and updates of several matrices under several patterns, from the first input to the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flexcim.config.pattern import Pattern
from flexcim_flow.layer.updates import Curvature

__all__ = ["obs_sweep"]

_PANEL = 32
"""Columns between two updates of all columns that come later, as matrix products are faster than outer products."""


def obs_sweep(
    weights: Sequence[Tensor],
    curvature: Curvature,
    patterns: Sequence[Sequence[Pattern]],
    masks: Sequence[Tensor] | None = None,
    *,
    taken: Sequence[Tensor] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """SparseGPT's sweep (arXiv 2301.00774) of several matrices that get the same inputs, each under patterns of its
    own; all share the factorisation, and each step is one for all.

    From the first input to the last, a weight that is dropped is made up for by all later ones. Unless masks are given,
    each group of m inputs keeps the n whose loss by the optimal brain surgeon would be largest when the sweep reaches
    the group.

    Parameters
    ----------
    weights : sequence of Tensor
        Dense weights, [outputs, inputs] each.
    curvature : Curvature
        Damped second moments of the inputs.
    patterns : sequence of sequences of Pattern
        The patterns of each matrix, each of which gets its own result.
    masks : sequence of Tensor, optional
        Their masks, for each matrix [patterns, outputs, inputs], bool.
    taken : sequence of Tensor, optional
        True where no mask may keep a weight, for each matrix [outputs, inputs], bool.

    Returns
    -------
    weights : list of Tensor
        For each matrix [patterns, outputs, inputs], zero outside of the masks, in the dtype of the curvature.
    masks : list of Tensor
        For each matrix [patterns, outputs, inputs], bool.
    """
    U = curvature.inverse_factor
    scales = U.diagonal()
    inputs = len(U)
    jobs = _Jobs.of(weights, patterns)
    # [inputs, outputs of all jobs] while it lasts, so that what one input changes lies together in memory.
    swept = torch.cat([weights[matrix].to(U).T for matrix, _ in jobs.order], dim=1)
    free = None if taken is None else torch.cat([~taken[matrix].T for matrix, _ in jobs.order], dim=1)
    if masks is None:
        kept = torch.zeros(swept.shape, dtype=torch.bool, device=U.device)
        for pattern, outputs in jobs.spans:
            kept[:, outputs] = pattern.is_dense
    else:
        kept = torch.cat([masks[matrix][index].T for matrix, index in jobs.order], dim=1)
    if free is not None:
        kept &= free
    # Columns up to `ahead` are always up to date, so that a group that begins in a panel can be judged as a whole.
    reach = max((pattern.m for pattern, _ in jobs.spans), default=1)
    for start in range(0, inputs, _PANEL):
        stop = min(start + _PANEL, inputs)
        ahead = min(stop + reach, inputs)
        errors = swept.new_zeros(stop - start, swept.shape[1])
        for column in range(start, stop):
            for pattern, outputs in jobs.spans if masks is None else ():
                if not pattern.is_dense and column % pattern.m == 0:
                    group = slice(column, min(column + pattern.m, inputs))
                    judged = (swept[group, outputs] / scales[group, None]).abs_()
                    if free is not None:
                        judged.masked_fill_(~free[group, outputs], -1.0)
                    largest = judged.topk(min(pattern.n, len(judged)), dim=0, sorted=False).indices
                    kept[group, outputs].scatter_(0, largest, True)
                    if free is not None:
                        kept[group, outputs] &= free[group, outputs]
            error = torch.div(swept[column], scales[column], out=errors[column - start])
            error.masked_fill_(kept[column], 0.0)
            swept[column:ahead].addr_(U[column, column:ahead], error, alpha=-1)
        swept[ahead:].addmm_(U[start:stop, ahead:].T, errors, alpha=-1)
    kept_by_matrix = jobs.by_matrix(kept)
    return [one.mul_(mask) for one, mask in zip(jobs.by_matrix(swept), kept_by_matrix, strict=True)], kept_by_matrix


@dataclass(frozen=True)
class _Jobs:
    """Matrices and patterns in the order of a sweep: the outputs of one pattern lie side by side, so that its groups
    are judged at once.

    Parameters
    ----------
    order : sequence of (int, int)
        The matrix and the index of its pattern.
    widths : sequence of int
        Outputs of each.
    spans : sequence of (Pattern, slice)
        The outputs of each pattern.
    """

    order: Sequence[tuple[int, int]]
    widths: Sequence[int]
    spans: Sequence[tuple[Pattern, slice]]

    @classmethod
    def of(cls, weights: Sequence[Tensor], patterns: Sequence[Sequence[Pattern]]) -> _Jobs:
        """The jobs of some matrices."""
        jobs: dict[Pattern, list[tuple[int, int]]] = {}
        for matrix, own in enumerate(patterns):
            for index, pattern in enumerate(own):
                jobs.setdefault(pattern, []).append((matrix, index))
        order = [job for of_pattern in jobs.values() for job in of_pattern]
        spans, begin = [], 0
        for pattern, of_pattern in jobs.items():
            end = begin + sum(len(weights[matrix]) for matrix, _ in of_pattern)
            spans.append((pattern, slice(begin, end)))
            begin = end
        return cls(order, [len(weights[matrix]) for matrix, _ in order], spans)

    def by_matrix(self, columns: Tensor) -> list[Tensor]:
        """[inputs, outputs of all jobs] as [patterns, outputs, inputs] for each matrix."""
        parts = dict(zip(self.order, columns.split(list(self.widths), dim=1), strict=True))
        matrices = sorted({matrix for matrix, _ in self.order})
        return [
            torch.stack([part.T for (owner, _), part in sorted(parts.items()) if owner == matrix])
            for matrix in matrices
        ]
