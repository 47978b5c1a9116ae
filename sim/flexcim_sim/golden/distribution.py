"""Twin of the distribution crossbar: windows become the lanes of each sub-macro, activations the slices on them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern

__all__ = ["bases", "lanes", "slices"]


def bases(config: MacroConfig, pattern: Pattern, groups: int) -> NDArray[np.int64]:
    """Stage 1: the element of the window from which on each physical sub-macro sees candidates, [S]."""
    index = np.arange(config.sub_macros) % (config.sub_macros // groups)  # a, within its output group
    return index // pattern.n * pattern.m + index % pattern.n


def lanes(
    config: MacroConfig, pattern: Pattern, groups: int, phase: int, windows: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Stage 2: what the lanes of each sub-macro carry in a phase.

    Parameters
    ----------
    config : MacroConfig
        The macro.
    pattern, groups, phase : Pattern, int, int
        The run's mode, and the phase t.
    windows : ndarray of int32, [V, R, w]
        The activation buffer's windows.

    Returns
    -------
    ndarray of int32, [V, R, S, L]
        Lanes past the block's largest offset carry 0.
    """
    offsets = phase * config.lanes + np.arange(config.lanes)
    legal = offsets <= pattern.max_offset
    sources = bases(config, pattern, groups)[:, None] + np.where(legal, offsets, 0)
    carried: NDArray[np.int32] = windows[:, :, sources] * legal
    return carried


def slices(config: MacroConfig, activations: NDArray[np.int32]) -> NDArray[np.int32]:
    """The A / b slices of activations, the most significant first.

    Parameters
    ----------
    config : MacroConfig
        The macro.
    activations : ndarray of int32, [...]
        Values of A bits, two's complement.

    Returns
    -------
    ndarray of int32, [A / b, ...]
        The first slice is signed, the others are not.
    """
    shifts = config.activation_bits - config.bits_per_cycle * np.arange(1, config.slices + 1)
    parts = activations >> shifts.reshape(-1, *[1] * activations.ndim)
    parts[1:] &= (1 << config.bits_per_cycle) - 1
    return parts.astype(np.int32)
