"""Twin of the requantizer: sums are scaled by mult / 2^shift, rounded half up and clamped to activations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flexcim.config.macro import MacroConfig

__all__ = ["requantize"]


def requantize(
    config: MacroConfig, sums: NDArray[np.int32], mult: NDArray[np.uint16], shift: NDArray[np.uint8]
) -> NDArray[np.int32]:
    """Scale, round and clamp sums.

    Parameters
    ----------
    config : MacroConfig
        The macro; its ``activation_bits`` are the result's.
    sums : ndarray of int32, [V, outputs]
        The sums of a layer's last K tile.
    mult, shift : ndarray of uint16 and of uint8, [outputs]
        Each output's constants; shifts are 0 to 47.

    Returns
    -------
    ndarray of int32, [V, outputs]
        clamp((sum * mult + round) >> shift) with round = 2^(shift - 1), or 0 for shift 0.
    """
    by = shift.astype(np.int64)
    half = np.where(by > 0, np.int64(1) << np.maximum(by - 1, 0), 0)
    # 32 bits times 16 bits, and half at most 2^46: this stays within 64 bits.
    scaled = (sums.astype(np.int64) * mult.astype(np.int64) + half) >> by
    limit = 1 << (config.activation_bits - 1)
    return np.clip(scaled, -limit, limit - 1).astype(np.int32)
