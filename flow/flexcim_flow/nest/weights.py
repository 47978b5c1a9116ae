"""Nested weights: a sparser plan's, the base, and those that a denser plan adds to them, the rest.

The denser plan's weights are base + rest, at different places, so each is stored once. A layer's output error is
``(w - b) H_s (w - b)^T`` under the sparser plan and ``(w - b - r) H_d (w - b - r)^T`` under the denser one, where H_s
and H_d are the second moments of what the layer gets under each. Pure functions of tensors, as those of
`flexcim_flow.layer.updates`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flexcim.config.pattern import Pattern
from flexcim_flow.layer.masks import nm_mask
from flexcim_flow.layer.quantization import quantize_weights
from flexcim_flow.layer.scores import magnitude_scores
from flexcim_flow.layer.sweep import obs_sweep
from flexcim_flow.layer.updates import Curvature, conjugate_gradients

__all__ = ["Nested", "free_mask", "nest", "nest_by_magnitude", "quantize_nested"]


@dataclass(frozen=True, eq=False)
class Nested:
    """A layer's weights under two plans.

    Parameters
    ----------
    base : Tensor
        Those of the sparser plan, [outputs, inputs], zero where it keeps none.
    rest : Tensor
        What the denser plan adds, [outputs, inputs], zero where the base is not.
    residual : float or None
        Largest relative residual of an output's least squares; None where none were solved.
    """

    base: Tensor
    rest: Tensor
    residual: float | None = None

    @property
    def denser(self) -> Tensor:
        """The denser plan's weights."""
        return self.base + self.rest


def free_mask(scores: Tensor, taken: Tensor, pattern: Pattern) -> Tensor:
    """Keep the n largest scores of each block of m inputs among those that are not taken, all if there are no more.

    Parameters
    ----------
    scores : Tensor
        Importance of each weight, [outputs, inputs].
    taken : Tensor
        True where a weight is the base's, [outputs, inputs], bool.
    pattern : Pattern
        The rest's pattern; the base's may have another m.

    Returns
    -------
    Tensor
        [outputs, inputs], bool.
    """
    return nm_mask(scores.masked_fill(taken, -torch.inf), pattern) & ~taken


def nest(
    weight: Tensor,
    base: Tensor,
    pattern: Pattern,
    denser: Curvature,
    sparser: Curvature | None = None,
    *,
    share: float = 0.0,
) -> Nested:
    """Choose a rest for a base and solve for its weights, and for those of the base if both plans count.

    The rest's places are those that SparseGPT's sweep keeps of what the base leaves of the dense weights. Then

    - with a share of 0 the base stays as it is, and the rest minimises the denser plan's error: for each output,
      ``H_RR r = [H (w - b)]_R``. If all that the base leaves fits the rest's pattern, it is the rest: so a model that
      is pruned already keeps its weights when it gets a subset of them as its sparser plan;
    - with a share above 0 both minimise ``(1 - share) * sparser error + share * denser error``, by conjugate gradients.
      A share of 1 is the best denser plan whose mask holds the base's; the sparser plan then gets what is left.

    Parameters
    ----------
    weight : Tensor
        Dense weights, [outputs, inputs].
    base : Tensor
        The sparser plan's weights, [outputs, inputs]; where they are zero, the rest may have some.
    pattern : Pattern
        The rest's pattern.
    denser : Curvature
        Damped second moments of the inputs under the denser plan.
    sparser : Curvature, optional
        The same under the sparser plan; needed if the share is above 0.
    share : float
        What the denser plan's error counts, 0 to 1.

    Raises
    ------
    ValueError
        If the share is not between 0 and 1, or above 0 and the sparser plan's second moments are missing.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the denser plan's share must be between 0 and 1, not {share}")
    base = base.to(denser.matrix)
    left = weight.to(denser.matrix) - base
    taken = base != 0
    if share == 0 and _fits(left, taken, pattern):
        return Nested(base, left)
    # The sweep begins where the base's places make up for nothing any more.
    full, _ = conjugate_gradients(left, denser, ~taken, torch.zeros_like(left))
    ((swept,),), ((mask,),) = obs_sweep([full], denser, [[pattern]], taken=[taken])
    if share == 0:
        rest, residual = conjugate_gradients(left, denser, mask, swept)
        return Nested(base, rest, residual)
    if sparser is None:
        if share < 1:
            raise ValueError(f"a share of {share} needs the second moments of the sparser plan")
        sparser = denser
    both = _both_errors(denser, sparser, share)
    zeros = torch.zeros_like(left)
    solved, residual = conjugate_gradients(
        torch.cat([zeros, weight.to(left)], dim=1),
        both,
        torch.cat([mask, taken], dim=1),
        torch.cat([swept, base], dim=1),
    )
    rest, base = solved.chunk(2, dim=1)
    return Nested(base, rest, residual)


def _both_errors(denser: Curvature, sparser: Curvature, share: float) -> Curvature:
    """The second moments under which the error of (0, w) against (r, b) is that of both plans,
    ``share * (w - b - r) H_d (w - b - r)^T + (1 - share) * (w - b) H_s (w - b)^T``."""
    H_d, H_s = share * denser.matrix, (1 - share) * sparser.matrix
    matrix = torch.cat([torch.cat([H_d, H_d], dim=1), torch.cat([H_d, H_d + H_s], dim=1)])
    return Curvature(matrix, max(denser.damping, sparser.damping))


def _fits(left: Tensor, taken: Tensor, pattern: Pattern) -> bool:
    """Whether a rest can be all that the base leaves."""
    mask = free_mask(magnitude_scores(left), taken, pattern)
    return not (left != 0).logical_and(~mask).any()


def nest_by_magnitude(weight: Tensor, base: Tensor, pattern: Pattern) -> Nested:
    """Take the largest dense weights that the base has not, unchanged: for a layer that no token has reached."""
    mask = free_mask(magnitude_scores(weight), base != 0, pattern)
    return Nested(base, weight * mask)


def quantize_nested(nested: Nested, bits: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise both parts with one scale for each output, that of the denser plan, so that their integers add up.

    Parameters
    ----------
    nested : Nested
        The layer.
    bits : int
        Width of the integers, 2 to 8.

    Returns
    -------
    base, rest : Tensor
        [outputs, inputs], int8.
    scales : Tensor
        [outputs], float32.
    """
    integers, scales = quantize_weights(nested.denser, bits)
    of_base = nested.base != 0
    return integers * of_base, integers * ~of_base, scales
