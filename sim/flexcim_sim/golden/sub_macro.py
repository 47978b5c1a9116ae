"""Twin of the sub-macros: in a phase, each cell multiplies its weight by the lane that its offset names."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flexcim.config.macro import MacroConfig

__all__ = ["column_sums"]


def column_sums(
    config: MacroConfig,
    phase: int,
    lanes: NDArray[np.int32],
    weights: NDArray[np.int8],
    offsets: NDArray[np.uint8],
) -> NDArray[np.int64]:
    """The exact signed sum of each column of each sub-macro in one phase.

    Parameters
    ----------
    config : MacroConfig
        The macro.
    phase : int
        The phase t: cells whose offset is in t * L ... t * L + L - 1 take part, the others contribute 0.
    lanes : ndarray of int32, [V, R, S, L]
        What the lanes carry: slices, or whole activations.
    weights, offsets : ndarray of int8 and of uint8, [rows, S, C]
        The cells of the rows that were loaded, R at most. Any offset of ``index_bits`` bits is allowed.

    Returns
    -------
    ndarray of int64, [V, S, C]
    """
    vectors, _, sub_macros, width = lanes.shape
    rows, _, columns = weights.shape
    cells = np.zeros((sub_macros, rows, width, columns))
    row, sub_macro, column = np.nonzero(offsets // width == phase)
    lane = offsets[row, sub_macro, column] % width
    cells[sub_macro, row, lane, column] = weights[row, sub_macro, column]
    # A cell is a row of its lanes with one weight in it, so that one matrix product per sub-macro does all cells and
    # vectors. Doubles hold the sums exactly (they stay far below 2^53) and have the fastest product.
    carried = lanes[:, :rows].transpose(2, 0, 1, 3).reshape(sub_macros, vectors, rows * width)
    sums = carried.astype(np.float64) @ cells.reshape(sub_macros, rows * width, columns)
    return sums.transpose(1, 0, 2).astype(np.int64)
