"""Twin of the activation buffer: beats of the activation stream become the windows that the slot rows read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flexcim.config.macro import MacroConfig, ceil_div
from flexcim.config.pattern import Pattern

__all__ = ["windows"]


def windows(
    config: MacroConfig, pattern: Pattern, groups: int, rows: int, beats: NDArray[np.int8]
) -> NDArray[np.int32]:
    """The window of every slot row, as the buffer holds it once a vector is complete.

    Parameters
    ----------
    config : MacroConfig
        The macro.
    pattern, groups, rows : Pattern, int, int
        The run's mode and the slot rows that take part.
    beats : ndarray of int8, [V, beats, P]
        The beats of V vectors, as many as ``config.vector_beats`` says. Elements that belong to no window are ignored.

    Returns
    -------
    ndarray of int32, [V, R, w]
        Rows past ``rows`` are zero.

    Raises
    ------
    ValueError
        If the beats are not of that shape.
    """
    width = config.window(pattern, groups)
    expected = (config.vector_beats(width, rows), config.activation_port)
    if beats.ndim != 3 or beats.shape[1:] != expected:
        raise ValueError(
            f"a vector of {pattern} at groups {groups} and rows {rows} has {expected[0]} beats of {expected[1]} "
            f"elements, but the beats have the shape {beats.shape}"
        )
    vectors = len(beats)
    per_beat = config.windows_per_beat(width)
    if per_beat:
        arrived = beats[:, :, : per_beat * width].reshape(vectors, -1, width)
    else:
        per_window = ceil_div(width, config.activation_port)
        arrived = beats.reshape(vectors, -1, per_window * config.activation_port)[:, :, :width]
    held = np.zeros((vectors, config.rows, width), np.int32)
    held[:, :rows] = arrived[:, :rows]
    return held
