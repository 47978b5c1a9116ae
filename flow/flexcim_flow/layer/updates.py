"""Updates of the kept weights: what is left of a layer makes up for what is dropped.

A layer's output error on the calibration tokens is ``sum_i (w_i - w'_i) H (w_i - w'_i)^T`` over its outputs i, with
H = E[x x^T]. Everything here is a pure function of the weights, H and a mask, in the dtype of H.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = [
    "DAMPING",
    "DIRECT_KEPT",
    "TOLERANCE",
    "Curvature",
    "UpdateError",
    "conjugate_gradients",
    "damped",
    "least_squares",
    "row_errors",
]

DAMPING = 0.01
"""Share of H's mean diagonal that is added to its diagonal: SparseGPT's value (arXiv 2301.00774)."""

_MOST_DAMPING = 100.0
"""Beyond this the update hardly moves a weight; H must hold something that is no second moment."""

DIRECT_KEPT = 64
"""Most kept weights of an output up to which `least_squares` is the faster way: it takes about kept ** 3 products for
each output, `conjugate_gradients` a few dozen times inputs ** 2 in far larger matrix products."""

TOLERANCE = 1e-3
"""Relative residual at which an output counts as solved: its error is then within about 1/1000 of the least."""

_STEPS = 100
"""Most steps of `conjugate_gradients`."""

_WORTHWHILE = 0.75
"""Share of unsolved outputs below which the solved ones are left behind; copying the others costs about a step."""

_CHUNK = 1 << 24
"""Numbers that are worked on at once; it bounds the memory of `least_squares` and `conjugate_gradients`."""


class UpdateError(ValueError):
    """Second moments that cannot be factorised however much they are damped."""


@dataclass(frozen=True, eq=False)
class Curvature:
    """Second moments of a layer's inputs that are safe to invert.

    Parameters
    ----------
    matrix : Tensor
        H + damping * mean(diag H) * I, [inputs, inputs], positive definite.
    damping : float
        What was needed: the share that was asked for, or the next power of ten above it with which the Cholesky
        factorisation goes through.
    """

    matrix: Tensor
    damping: float

    @cached_property
    def inverse_factor(self) -> Tensor:
        """U, upper triangular, U^T U = H^-1, [inputs, inputs].

        Raises
        ------
        torch.linalg.LinAlgError
            If rounding has left H or its inverse indefinite; never for what `damped` gives.
        """
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(self.matrix))
        # The inverse's own rounding could cost it its definiteness where H is damped least; symmetry is what it needs.
        return torch.linalg.cholesky((inverse + inverse.T) / 2, upper=True)

    @property
    def inverse_diagonal(self) -> Tensor:
        """Diagonal of H^-1, [inputs]."""
        return self.inverse_factor.square().sum(dim=0)


def damped(moments: Tensor, damping: float = DAMPING) -> Curvature:
    """Damp second moments until they, and their inverse, can be factorised.

    The damping keeps the solution near the trained weights in directions that the calibration hardly saw; an input that
    was always zero leaves its weight as it is.

    Parameters
    ----------
    moments : Tensor
        H, [inputs, inputs], symmetric, positive semidefinite up to rounding.
    damping : float
        Share of the mean diagonal to begin with, positive.

    Raises
    ------
    ValueError
        If ``moments`` is no square matrix of finite numbers, or the damping is not positive.
    UpdateError
        If no damping helps.
    """
    if moments.ndim != 2 or moments.shape[0] != moments.shape[1]:
        raise ValueError(f"second moments must be [inputs, inputs], not of shape {list(moments.shape)}")
    if not moments.isfinite().all():
        raise ValueError("second moments must be finite")
    if not damping > 0:
        raise ValueError(f"damping must be positive, not {damping}")
    mean = moments.diagonal().mean().item()
    while damping <= _MOST_DAMPING:
        matrix = moments.clone()
        matrix.diagonal().add_(damping * mean if mean > 0 else 1.0)
        curvature = Curvature(matrix, damping)
        try:
            _ = curvature.inverse_factor
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # public, but not in its __all__
            damping *= 10
        else:
            return curvature
    raise UpdateError("second moments are not positive semidefinite, whatever their damping")


def least_squares(weight: Tensor, curvature: Curvature, mask: Tensor) -> Tensor:
    """The best weights under a mask: for each output i, those of its kept weights K that minimise its output error,
    ``H_KK w'_K = H_K: w``, with the damped H.

    Every output is a system of its own; they are solved together by Cholesky factorisations, in chunks that bound the
    memory.

    Parameters
    ----------
    weight : Tensor
        Dense weights, [outputs, inputs].
    curvature : Curvature
        Damped second moments of the inputs.
    mask : Tensor
        True where a weight is kept, [outputs, inputs], bool; each output keeps the same number.

    Returns
    -------
    Tensor
        [outputs, inputs], zero outside of the mask, in the dtype of the curvature.

    Raises
    ------
    ValueError
        If the outputs keep different numbers of weights.
    """
    H = curvature.matrix
    outputs, inputs = weight.shape
    counts = mask.sum(dim=1)
    kept = int(counts[0])
    if not (counts == kept).all():
        raise ValueError(
            f"each output must keep the same number of weights, not {int(counts.min())} to {int(counts.max())}"
        )
    weight = weight.to(H)
    if kept in (0, inputs):
        return weight * mask
    columns = mask.nonzero()[:, 1].view(outputs, kept)
    targets = (weight @ H).gather(1, columns)
    updated = torch.zeros_like(weight)
    for rows in torch.arange(outputs, device=H.device).split(max(1, _CHUNK // kept**2)):
        among = columns[rows]
        systems = H[among[:, :, None], among[:, None, :]]
        # A principal submatrix of a positive definite matrix is one as well, so that this cannot fail.
        solution = torch.cholesky_solve(targets[rows, :, None], torch.linalg.cholesky(systems))
        updated[rows] = updated[rows].scatter(1, among, solution[..., 0])
    return updated


def conjugate_gradients(
    weight: Tensor,
    curvature: Curvature,
    mask: Tensor,
    start: Tensor,
    *,
    tolerance: float = TOLERANCE,
    steps: int = _STEPS,
) -> tuple[Tensor, float]:
    """What `least_squares` finds, to a stated residual and at far less cost for wide layers.

    The normal equations of the kept weights are solved by conjugate gradients with the diagonal as preconditioner. A
    step is one product of H with the outputs of all masks at once, their dropped weights being zero. It ends when the
    residual of each is small enough. None ends with more error than it began with: whatever rounding did, it then keeps
    its start.

    Parameters
    ----------
    weight : Tensor
        Dense weights, [outputs, inputs].
    curvature : Curvature
        Damped second moments of the inputs.
    mask : Tensor
        True where a weight is kept, [..., outputs, inputs], bool: one mask, or several that are solved together.
    start : Tensor
        Weights to begin with, such as those of `flexcim_flow.layer.sweep.obs_sweep`, in the shape of the mask; only
        what it keeps counts.
    tolerance : float
        Residual relative to the right-hand side, both in the norm of the preconditioner, at which an output is done.
    steps : int
        Most steps.

    Returns
    -------
    weights : Tensor
        In the shape of the mask, zero outside of it, in the dtype of the curvature.
    residual : float
        Largest relative residual of an output, computed anew at the end.
    """
    H = curvature.matrix
    targets = weight.to(H) @ H
    masks, starts = mask.reshape(-1, weight.shape[1]), start.reshape(-1, weight.shape[1])
    solved = torch.empty_like(starts, dtype=H.dtype)
    largest = 0.0
    for rows in torch.arange(len(masks), device=weight.device).split(max(1, _CHUNK // weight.shape[1])):
        kept = masks[rows].to(H)
        system = _Normal(H, targets[rows % len(targets)] * kept, kept)
        begun = starts[rows].to(H) * kept
        before = system.residual(begun)
        ended = system.descended(begun, before, tolerance, steps)
        after = system.residual(ended)
        better = (system.excess(ended, after) <= system.excess(begun, before))[:, None]  # false where it is no number
        solved[rows] = torch.where(better, ended, begun)
        largest = max(largest, system.relative(torch.where(better, after, before)).max().item())
    return solved.view(mask.shape), largest


@dataclass(frozen=True, eq=False)
class _Normal:
    """The normal equations of some outputs: for each, H_KK x_K = b_K, all vectors being zero outside of K."""

    H: Tensor  # [inputs, inputs]
    targets: Tensor  # b, [outputs, inputs]
    kept: Tensor  # 1 in K and 0 elsewhere, [outputs, inputs]

    def residual(self, x: Tensor) -> Tensor:
        """b - H x at the kept weights."""
        return self.targets - x @ self.H * self.kept

    def relative(self, residual: Tensor) -> Tensor:
        """Norm of a residual by that of b, [outputs]; zero where b is zero."""
        scale = self.H.diagonal().reciprocal()
        norms = [(part.square() * scale).sum(dim=1) for part in (residual, self.targets)]
        return torch.where(norms[1] > 0, norms[0] / norms[1], 0.0).sqrt()

    def excess(self, x: Tensor, residual: Tensor) -> Tensor:
        """The output error that depends on x, whose residual is given: x^T H x / 2 - b^T x, [outputs]."""
        return -(x * (self.targets + residual)).sum(dim=1) / 2

    def descended(self, start: Tensor, residual: Tensor, tolerance: float, steps: int) -> Tensor:
        """The end of the conjugate gradients from a start, whose residual is given."""
        # In units in which H has a diagonal of ones, which is what the preconditioner comes to.
        units = self.H.diagonal().rsqrt()
        H = units[:, None] * self.H * units
        enough = tolerance**2 * (self.targets * units).square().sum(dim=1)
        solved = start.clone()
        rows = torch.arange(len(start), device=start.device)
        x, residual, kept = start / units, residual * units, self.kept
        step = residual
        squares = residual.square().sum(dim=1)
        least = torch.finfo(start.dtype).tiny  # what is divided by where there is nothing left to do
        for _ in range(steps):
            unsolved = squares > enough[rows]
            left = int(unsolved.sum())
            if left <= _WORTHWHILE * len(rows):
                solved[rows] = x * units
                if not left:
                    return solved
                rows, squares = rows[unsolved], squares[unsolved]
                x, residual, step, kept = x[unsolved], residual[unsolved], step[unsolved], kept[unsolved]
            product = (step @ H).mul_(kept)
            length = (squares / (step * product).sum(dim=1).clamp(min=least))[:, None]
            x = x.addcmul_(length, step)
            residual = residual.addcmul(length, product, value=-1)
            before, squares = squares, residual.square().sum(dim=1)
            step = residual.addcmul((squares / before.clamp(min=least))[:, None], step)
        solved[rows] = x * units
        return solved


def row_errors(weight: Tensor, treated: Tensor, moments: Tensor) -> Tensor:
    """Mean square error of each output on the calibration tokens, diag((W - W') H (W - W')^T).

    Parameters
    ----------
    weight : Tensor
        Dense weights, [outputs, inputs].
    treated : Tensor
        What became of them, [..., outputs, inputs].
    moments : Tensor
        H, [inputs, inputs].

    Returns
    -------
    Tensor
        [..., outputs], none negative, in the dtype of the moments.
    """
    change = treated.to(moments) - weight.to(moments)
    return ((change @ moments) * change).sum(dim=-1).clamp(min=0)
