"""N:M masks: which weights of each block of m consecutive inputs are kept."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from flexcim.config.pattern import Pattern

__all__ = ["kept_weights", "nm_mask"]

_RANKED = 16
"""Largest m for which all pairs of a block are compared; longer blocks are sorted."""

_CHUNK = 1 << 14
"""Blocks that are ranked at once: few enough to stay in the caches."""


def nm_mask(scores: Tensor, pattern: Pattern) -> Tensor:
    """Keep the n largest scores of each block of m consecutive inputs, for each output on its own (Wanda's N:M rule).

    Of equal scores the one with the lowest input index is kept. If m does not divide the inputs, the last block of
    r < m inputs keeps min(n, r) (docs/architecture.md, section 2).

    Parameters
    ----------
    scores : Tensor
        Importance of each weight, [outputs, inputs]; finite or not, but no NaN.
    pattern : Pattern
        n:m, where n counts what is kept.

    Returns
    -------
    Tensor
        True where the weight is kept, [outputs, inputs], bool.

    Raises
    ------
    ValueError
        If ``scores`` is no matrix or holds a NaN.
    """
    if scores.ndim != 2:
        raise ValueError(f"scores must be [outputs, inputs], not of shape {list(scores.shape)}")
    # The sum is NaN if a score is, and takes an eighth of the time of asking each; infinities can make it one as well.
    if scores.sum().isnan() and scores.isnan().any():
        raise ValueError("scores must not hold NaN, which has no rank")
    if pattern.is_dense:
        return torch.ones_like(scores, dtype=torch.bool)
    outputs, inputs = scores.shape
    scores = scores.float()
    if inputs % pattern.m:
        # The padding loses to every real score, so that the last block's n go to its r inputs first.
        scores = pad(scores, (0, -inputs % pattern.m), value=-torch.inf)
    blocks = scores.reshape(-1, pattern.m)
    mask = torch.zeros_like(blocks, dtype=torch.bool)
    if pattern.m > _RANKED:
        # topk leaves the order of equal scores open; a stable sort keeps the lowest index first.
        order = blocks.sort(dim=-1, descending=True, stable=True).indices
        mask.scatter_(-1, order[..., : pattern.n], True)
    else:
        for chunk, kept in zip(blocks.split(_CHUNK), mask.split(_CHUNK), strict=True):
            kept.copy_((_ranks(chunk) < pattern.n).T)
    return mask.view(outputs, -1)[:, :inputs]


def _ranks(blocks: Tensor) -> Tensor:
    """How many scores of its block each score loses to, [m, blocks], uint8; of equal scores the first one wins.

    Comparing all pairs takes m * (m - 1) / 2 comparisons of a score, but they run over long vectors, where a sort of m
    numbers is a branch at each step.
    """
    ordered = blocks.T.contiguous()
    last = len(ordered) - 1
    # As if each lost to all that come after it; a win over one of them takes that back, and is a loss of the other.
    ranks = torch.arange(last, -1, -1, dtype=torch.uint8, device=ordered.device)[:, None].repeat(1, ordered.shape[1])
    for distance in range(1, last + 1):
        wins = (ordered[:-distance] >= ordered[distance:]).view(torch.uint8)
        ranks[distance:] += wins
        ranks[:-distance] -= wins
    return ranks


def kept_weights(outputs: int, inputs: int, pattern: Pattern) -> int:
    """Weights that a mask keeps in a layer: outputs * (n * floor(inputs / m) + min(n, inputs mod m))."""
    blocks, rest = divmod(inputs, pattern.m)
    return outputs * (blocks * pattern.n + min(pattern.n, rest))
