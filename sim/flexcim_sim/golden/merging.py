"""Twin of the merging adder tree: per column, neighbouring sub-macros are added level by level, with a tap at each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flexcim.config.macro import MacroConfig

__all__ = ["taps"]


def taps(config: MacroConfig, sums: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """The results at every level of the tree.

    Parameters
    ----------
    config : MacroConfig
        The macro.
    sums : ndarray of int64, [V, S, C]
        The sub-macros' column sums.

    Returns
    -------
    dict from G to ndarray of int64, [V, G, C]
        For each G = S, S / 2, ... 1 the sums of the G output groups.
    """
    groups = config.sub_macros
    levels = {groups: sums}
    while groups > 1:
        sums = sums[:, 0::2] + sums[:, 1::2]
        groups //= 2
        levels[groups] = sums
    return levels
