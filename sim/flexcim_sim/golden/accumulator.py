"""Twin of the accumulator: shift-add over slices and phases, then the sums of a layer's K tiles in a banked memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flexcim.config.macro import SUM_BITS, MacroConfig
from flexcim.errors import FlexCiMError

__all__ = ["SumMemory", "shift_add"]


def shift_add(config: MacroConfig, partials: NDArray[np.int64]) -> NDArray[np.int64]:
    """A vector's sums from the partial sums of its issue cycles.

    Parameters
    ----------
    config : MacroConfig
        The macro.
    partials : ndarray of int64, [A / b, T, ...]
        The merged sums, slices (most significant first) and phases in the order of issue.

    Returns
    -------
    ndarray of int64, [...]
    """
    total = np.zeros(partials.shape[2:], np.int64)
    for phases in partials:
        total = total << config.bits_per_cycle
        for partial in phases:
            total = total + partial
    return total


class SumMemory:
    """The memory of the sums of up to D vectors while the K tiles of a layer pass.

    Parameters
    ----------
    config : MacroConfig
        The macro.

    Attributes
    ----------
    banks : ndarray of int32, [S, D / S, C]
        The S banks; vector v, group h is in bank (v * G + h) mod S at address (v * G + h) div S.
    """

    def __init__(self, config: MacroConfig) -> None:
        self.banks = np.zeros(
            (config.sub_macros, config.accumulator_depth // config.sub_macros, config.columns), np.int32
        )

    def accumulate(self, sums: NDArray[np.int64], *, first_k: bool, last_k: bool) -> NDArray[np.int32]:
        """Take the sums of one K tile's run: the first writes, later ones add, and a single one bypasses the memory.

        Parameters
        ----------
        sums : ndarray of int64, [V, G, C]
            The sums of V vectors. V * G <= D, unless the run is both the first and the last.
        first_k, last_k : bool
            The run's place among the K tiles.

        Returns
        -------
        ndarray of int32, [V, G, C]
            The sums so far: the layer's, on the last K tile.

        Raises
        ------
        FlexCiMError
            If a sum leaves 32 bits, which tiling is to refuse.
        """
        vectors, groups, _ = sums.shape
        if first_k and last_k:
            return _as_sum(sums)
        word = np.arange(vectors)[:, None] * groups + np.arange(groups)
        bank, address = word % len(self.banks), word // len(self.banks)
        total = _as_sum(sums if first_k else sums + self.banks[bank, address])
        self.banks[bank, address] = total
        return total


def _as_sum(sums: NDArray[np.int64]) -> NDArray[np.int32]:
    limit = 1 << (SUM_BITS - 1)
    if sums.size and (sums.max() >= limit or sums.min() < -limit):
        raise FlexCiMError(f"a sum of {max(sums.max(), -sums.min())} leaves the accumulator's {SUM_BITS} bits")
    return sums.astype(np.int32)
