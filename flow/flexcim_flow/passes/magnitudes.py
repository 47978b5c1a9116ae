"""Magnitudes of what enters a layer: the largest one, and quantiles from a histogram of bounded size."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["RESOLUTION", "Magnitudes"]

_DROPPED_BITS = 14
"""Bits of a float32's fraction, of 23, that the histogram does not tell apart."""

_BINS = 1 << (31 - _DROPPED_BITS)

RESOLUTION = 2.0 ** (_DROPPED_BITS - 23)
"""Width of a bin relative to the magnitudes in it, 1/512, and so the most by which a quantile is too large."""


class Magnitudes:
    """Magnitudes that come in parts: how many were seen of each size.

    A histogram over the leading bits of the float32 numbers counts them, so that its bins are logarithmic to within a
    power of two, cover every number, and need no range that is known before. It takes 1 MiB, however much is seen.

    Attributes
    ----------
    counts : Tensor
        Numbers in each bin, [131072], int64.
    largest : float
        The largest magnitude, exact; 0 if nothing was seen, NaN if a NaN was.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(_BINS, dtype=torch.int64)
        self.largest = 0.0

    def add(self, values: Tensor) -> None:
        """Take values of any shape into account."""
        if not values.numel():
            return
        magnitudes = values.detach().float().abs().flatten()
        largest = magnitudes.max().item()
        self.largest = math.nan if math.isnan(largest) else max(self.largest, largest)  # keeps a NaN
        bins = magnitudes.view(torch.int32) >> _DROPPED_BITS
        self.counts += torch.bincount(bins, minlength=_BINS).to(self.counts.device)

    def percentile(self, percent: float) -> float:
        """The magnitude at a percentile, of two neighbours the higher, from its bin's upper end.

        It is never below the exact one, above it by at most `RESOLUTION` of it, and the exact largest for 100.

        Parameters
        ----------
        percent : float
            Above 0, up to 100.
        """
        total = int(self.counts.sum())
        if percent == 100 or not total:
            return self.largest
        below = self.counts.cumsum(0)
        # Exact while there are fewer than 2^53 numbers.
        wanted = 1 + math.ceil(percent / 100 * (total - 1))
        place = int(torch.searchsorted(below, wanted))
        end = torch.tensor([(place + 1) << _DROPPED_BITS], dtype=torch.int64).to(torch.int32).view(torch.float32)
        return min(end.item(), self.largest)
