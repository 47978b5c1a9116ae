"""Symmetric integers for weights and activations, and a linear layer that computes exactly as the hardware does."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

__all__ = [
    "QuantizedLinear",
    "activation_scale",
    "integer_product",
    "quantize",
    "quantize_weights",
    "token_scales",
]

_EXACT_IN_FLOAT32 = 1 << 24
"""float32 holds every integer up to this one."""


def _limit(bits: int) -> int:
    """Largest magnitude of a symmetric integer: the most negative number is not used."""
    return (1 << (bits - 1)) - 1


def _scale(largest: Tensor, bits: int) -> Tensor:
    """Scale that maps ``largest`` to the largest integer; 1 where everything is zero (or too small for a scale)."""
    scale = largest.float() / _limit(bits)
    return torch.where(scale > 0, scale, 1.0)


def quantize(values: Tensor, scale: Tensor, bits: int = 8) -> Tensor:
    """Integers round(values / scale), ties to even, clamped to the symmetric range of ``bits`` bits.

    Parameters
    ----------
    values : Tensor
        Any shape, floating.
    scale : Tensor
        Positive, broadcastable to ``values``.
    bits : int
        Width of the integers, 2 to 8.

    Returns
    -------
    Tensor
        Shape of ``values``, int8, within -(2^(bits-1) - 1) ... 2^(bits-1) - 1.
    """
    limit = _limit(bits)
    return (values.float() / scale).round().clamp(-limit, limit).to(torch.int8)


def quantize_weights(weight: Tensor, bits: int = 8) -> tuple[Tensor, Tensor]:
    """Quantise weights symmetrically per output: scale = max |w| / (2^(bits-1) - 1).

    A zero stays zero, so a pruned layer keeps its mask; small weights may become zero as well.

    Parameters
    ----------
    weight : Tensor
        [outputs, inputs], floating.
    bits : int
        Width of the integers, 2 to 8.

    Returns
    -------
    weights : Tensor
        [outputs, inputs], int8.
    scales : Tensor
        [outputs], float32; 1 for outputs whose weights are all zero.
    """
    scales = _scale(weight.detach().abs().amax(dim=1), bits)
    return quantize(weight.detach(), scales[:, None], bits), scales


def activation_scale(largest: float, bits: int = 8) -> Tensor:
    """Scale of a whole tensor of activations whose largest magnitude is known from calibration, [] float32."""
    return _scale(torch.tensor(largest), bits)


def token_scales(activations: Tensor, bits: int = 8) -> Tensor:
    """Scale of each token, from its own largest magnitude: [..., inputs] to [..., 1], float32."""
    return _scale(activations.abs().amax(dim=-1, keepdim=True), bits)


def integer_product(activations: Tensor, weights: Tensor) -> Tensor:
    """The sums that the hardware accumulates, exact.

    Parameters
    ----------
    activations : Tensor
        [vectors, inputs], int8, symmetric (no -128).
    weights : Tensor
        [outputs, inputs], int8, symmetric.

    Returns
    -------
    Tensor
        [vectors, outputs], int32: sum over the inputs of activation * weight.
    """
    # CPUs multiply float32 matrices faster than integer ones, and as long as no sum can pass 2^24 the result is exact
    # in any order of summation. So the inputs are taken in parts for which that holds.
    inputs = _EXACT_IN_FLOAT32 // _limit(8) ** 2
    sums = torch.zeros(len(activations), len(weights), dtype=torch.int32, device=activations.device)
    for part, part_weights in zip(activations.split(inputs, dim=1), weights.split(inputs, dim=1), strict=True):
        sums += (part.float() @ part_weights.float().T).to(torch.int32)
    return sums


class QuantizedLinear(nn.Module):
    """A linear layer in the hardware's arithmetic: integer activations times integer weights, summed in 32 bits, scaled
    and biased in float32 afterwards, as the host does.

    Parameters
    ----------
    weights : Tensor
        [outputs, inputs], int8.
    scales : Tensor
        Scale of each output, [outputs], float32.
    bias : Tensor, optional
        [outputs], floating.
    activation_bits : int
        Width of the activations, 2 to 8.
    activation_scale : Tensor, optional
        Scale of all activations, [] float32; by default each token has its own, from its largest magnitude.
    """

    def __init__(
        self,
        weights: Tensor,
        scales: Tensor,
        bias: Tensor | None = None,
        *,
        activation_bits: int = 8,
        activation_scale: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", bias)
        self.register_buffer("activation_scale", activation_scale)
        self.activation_bits = activation_bits

    def quantize_activations(self, activations: Tensor) -> tuple[Tensor, Tensor]:
        """The integers that enter the hardware and their scale.

        Parameters
        ----------
        activations : Tensor
            [..., inputs], floating.

        Returns
        -------
        integers : Tensor
            [..., inputs], int8.
        scale : Tensor
            float32, [..., 1] for a scale per token, [] for one of the whole tensor.
        """
        scale = self.activation_scale
        if scale is None:
            scale = token_scales(activations, self.activation_bits)
        return quantize(activations, cast(Tensor, scale), self.activation_bits), cast(Tensor, scale)

    def forward(self, activations: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs], in the dtype of the activations."""
        integers, scale = self.quantize_activations(activations)
        weights = cast(Tensor, self.weights)
        sums = integer_product(integers.flatten(0, -2), weights).view(*activations.shape[:-1], len(weights))
        result = sums.float() * scale * cast(Tensor, self.scales)
        if self.bias is not None:
            result = result + cast(Tensor, self.bias).float()
        return result.to(activations.dtype)
