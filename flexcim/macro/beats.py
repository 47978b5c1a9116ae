"""Arrays to stream beats and back: the order and the packing of the macro's data ports (docs/architecture.md, 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flexcim.config.macro import SUM_BITS, MacroConfig, ceil_div
from flexcim.config.pattern import Pattern

__all__ = [
    "MAX_SHIFT",
    "MULT_BITS",
    "SHIFT_BITS",
    "activation_beats",
    "activation_payload_bits",
    "activation_payloads",
    "constant_beats",
    "constant_payload_bits",
    "constant_payloads",
    "result_elements",
    "result_payload_bits",
    "weight_beats",
    "weight_payload_bits",
    "weight_payloads",
]

MULT_BITS = 16
"""Width of a requantizer multiplier on the constants port, unsigned."""

SHIFT_BITS = 6
"""Width of a requantizer shift on the constants port, unsigned."""

MAX_SHIFT = 47
"""Largest shift of the requantizer; what the hardware does with the larger ones that its bits could say is open."""


# -- order -------------------------------------------------------------------------------------------------------------


def activation_beats(
    config: MacroConfig, pattern: Pattern, groups: int, rows: int, vectors: NDArray[np.int8]
) -> NDArray[np.int8]:
    """Beats of vectors on the activation port.

    With f windows to a beat, f the largest divisor of R for which f * w <= P, they lie from element 0 on; a window
    wider than P takes ceil(w / P) beats (docs/architecture.md, section 3, block 1).

    Parameters
    ----------
    config : MacroConfig
        The macro.
    pattern : Pattern
        The run's pattern.
    groups : int
        The run's G.
    rows : int
        The run's rows.
    vectors : int8 [V, rows * w]
        Windows of the rows, in natural order.

    Returns
    -------
    int8 [V, beats, P]
        Unused elements are 0. The last beat of each vector carries ``last``.

    Raises
    ------
    ConfigError
        If the pattern is not on the menu, or not legal at this G.
    ValueError
        If the vectors have the wrong shape.
    """
    config.check_mode(pattern, groups)
    window, port = config.window(pattern, groups), config.activation_port
    _check(vectors, "vectors", np.int8, (None, rows * window))
    count = len(vectors)
    f = config.windows_per_beat(window)
    # A unit is what starts at element 0 of a beat: f windows, or one window that fills several beats.
    unit = f * window if f else window
    units = ceil_div(rows * window, unit)
    whole = np.zeros((count, units * unit), np.int8)
    whole[:, : rows * window] = vectors
    beats = np.zeros((count, units, ceil_div(unit, port) * port), np.int8)
    beats[:, :, :unit] = whole.reshape(count, units, unit)
    return beats.reshape(count, config.vector_beats(window, rows), port)


def weight_beats(
    config: MacroConfig, weights: NDArray[np.int8], offsets: NDArray[np.uint8]
) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
    """Beats of a tile on the weight port: cells in the order row, sub-macro, column, q to a beat.

    Parameters
    ----------
    config : MacroConfig
        The macro.
    weights : int8 [rows, S, C]
        Weights of the tile's cells, only the rows that its load names.
    offsets : uint8 [rows, S, C]
        Their offsets.

    Returns
    -------
    weights : int8 [beats, q]
        Weights of the beats. The last beat carries ``last``.
    offsets : uint8 [beats, q]
        Their offsets.

    Raises
    ------
    ValueError
        If an array is of the wrong kind or shape.
    """
    for name, array, dtype in (("weights", weights, np.int8), ("offsets", offsets, np.uint8)):
        _check(array, name, dtype, (len(weights), config.sub_macros, config.columns))
    return weights.reshape(-1, config.weight_port), offsets.reshape(-1, config.weight_port)


def constant_beats(
    config: MacroConfig, mult: NDArray[np.uint16], shift: NDArray[np.uint8]
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Beats of a tile's requantizer constants: by output, ``result_port`` to a beat, the unused ones 0.

    Parameters
    ----------
    config : MacroConfig
        The macro.
    mult : uint16 [outputs]
        Multipliers, by output j of the tile.
    shift : uint8 [outputs]
        Shifts.

    Returns
    -------
    mult : uint16 [beats, result_port]
        Multipliers of the beats. The last beat carries ``last``.
    shift : uint8 [beats, result_port]
        Their shifts.

    Raises
    ------
    ValueError
        If an array is of the wrong kind or shape, or a shift is too large.
    """
    _check(mult, "mult", np.uint16, (None,))
    _check(shift, "shift", np.uint8, (len(mult),))
    if (shift > MAX_SHIFT).any():
        raise ValueError(f"shift must be at most {MAX_SHIFT}, not {shift.max()}")
    beats = ceil_div(len(mult), config.result_port)
    padding = (0, beats * config.result_port - len(mult))
    shape = beats, config.result_port
    return np.pad(mult, padding).reshape(shape), np.pad(shift, padding).reshape(shape)


# -- packing -----------------------------------------------------------------------------------------------------------


def activation_payload_bits(config: MacroConfig) -> int:
    """Bits of the activation stream's payload: P * A and ``last``."""
    return config.activation_port * config.activation_bits + 1


def weight_payload_bits(config: MacroConfig) -> int:
    """Bits of the weight stream's payload: q cells and ``last``."""
    return config.weight_port * config.cell_bits + 1


def constant_payload_bits(config: MacroConfig) -> int:
    """Bits of the constant stream's payload: result_port * (mult, shift) and ``last``."""
    return config.result_port * (MULT_BITS + SHIFT_BITS) + 1


def result_payload_bits(config: MacroConfig) -> int:
    """Bits of the result stream's payload: result_port sums and ``last``."""
    return config.result_port * SUM_BITS + 1


def activation_payloads(config: MacroConfig, beats: NDArray[np.int8]) -> list[int]:
    """Payloads of the activation beats of whole vectors, ``last`` on each vector's last.

    Parameters
    ----------
    config : MacroConfig
        The macro.
    beats : int8 [V, beats, P]
        As `activation_beats` gives them.

    Returns
    -------
    list of int
        V * beats payloads.

    Raises
    ------
    ValueError
        If the array has the wrong shape, or an element does not fit A bits.
    """
    _check(beats, "beats", np.int8, (None, None, config.activation_port))
    last = np.zeros(beats.shape[:2], np.bool_)
    last[:, -1:] = True
    fields = _signed_field(beats, config.activation_bits).reshape(-1, config.activation_port)
    return _payloads(fields, config.activation_bits, last)


def weight_payloads(config: MacroConfig, weights: NDArray[np.int8], offsets: NDArray[np.uint8]) -> list[int]:
    """Payloads of the weight beats of one tile, ``last`` on the last: in each cell the weight is low, the offset above.

    Parameters
    ----------
    config : MacroConfig
        The macro.
    weights : int8 [beats, q]
        As `weight_beats` gives them.
    offsets : uint8 [beats, q]
        Likewise.

    Returns
    -------
    list of int
        One payload for each beat.

    Raises
    ------
    ValueError
        If an array has the wrong shape, or a weight or an offset does not fit its bits.
    """
    _check(weights, "weights", np.int8, (None, config.weight_port))
    _check(offsets, "offsets", np.uint8, weights.shape)
    cells = _signed_field(weights, config.weight_bits)
    cells |= _unsigned_field(offsets, config.index_bits, "offset") << config.weight_bits
    return _payloads(cells, config.cell_bits, _only_last(len(cells)))


def constant_payloads(config: MacroConfig, mult: NDArray[np.uint16], shift: NDArray[np.uint8]) -> list[int]:
    """Payloads of the constant beats of one tile, ``last`` on the last: the multiplier is low, the shift above.

    Parameters
    ----------
    config : MacroConfig
        The macro.
    mult : uint16 [beats, result_port]
        As `constant_beats` gives them.
    shift : uint8 [beats, result_port]
        Likewise.

    Returns
    -------
    list of int
        One payload for each beat.

    Raises
    ------
    ValueError
        If an array has the wrong shape, or a shift does not fit its bits.
    """
    _check(mult, "mult", np.uint16, (None, config.result_port))
    _check(shift, "shift", np.uint8, mult.shape)
    fields = _unsigned_field(mult, MULT_BITS, "mult")
    fields |= _unsigned_field(shift, SHIFT_BITS, "shift") << MULT_BITS
    return _payloads(fields, MULT_BITS + SHIFT_BITS, _only_last(len(fields)))


def result_elements(config: MacroConfig, payloads: Sequence[int]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Read payloads of the result stream.

    Parameters
    ----------
    config : MacroConfig
        The macro.
    payloads : sequence of int
        One for each beat.

    Returns
    -------
    elements : int32 [beats, result_port]
        The sums.
    last : bool [beats]
        ``last`` of each beat.

    Raises
    ------
    OverflowError
        If a payload is negative or has more bits than the stream.
    """
    size = config.result_port * SUM_BITS // 8
    data = b"".join(payload.to_bytes(size + 1, "little") for payload in payloads)
    beats = np.frombuffer(data, np.uint8).reshape(len(payloads), size + 1)
    if (beats[:, -1] > 1).any():
        raise OverflowError(f"a result payload has {result_payload_bits(config)} bits, but one has more")
    elements = np.ascontiguousarray(beats[:, :-1]).view("<i4").astype(np.int32, copy=False)
    return elements, beats[:, -1].astype(np.bool_)


def _only_last(beats: int) -> NDArray[np.bool_]:
    last = np.zeros(beats, np.bool_)
    last[-1:] = True
    return last


def _signed_field(values: NDArray[np.int8], bits: int) -> NDArray[np.uint32]:
    """Signed values as bit fields.

    Raises
    ------
    ValueError
        If a value does not fit.
    """
    limit = 1 << (bits - 1)
    wrong = (values < -limit) | (values >= limit)
    if wrong.any():
        raise ValueError(f"an element must fit {bits} bits, {-limit} to {limit - 1}, not {values[wrong][0]}")
    return values.astype(np.uint32) & np.uint32((1 << bits) - 1)


def _unsigned_field(values: NDArray[np.unsignedinteger], bits: int, name: str) -> NDArray[np.uint32]:
    """Unsigned values as bit fields.

    Raises
    ------
    ValueError
        If a value does not fit.
    """
    if values.size and int(values.max()) >> bits:
        raise ValueError(f"{name} must fit {bits} bits, 0 to {(1 << bits) - 1}, not {values.max()}")
    return values.astype(np.uint32)


def _payloads(fields: NDArray[np.uint32], bits: int, last: NDArray[np.bool_]) -> list[int]:
    """Payloads of fields [beats, elements] of ``bits`` bits each, element 0 lowest, and ``last`` above them."""
    beats, elements = fields.shape
    used = np.zeros((beats, elements * bits + 1), np.uint8)
    octets = fields.astype("<u4").reshape(beats, elements, 1).view(np.uint8)
    used[:, :-1] = np.unpackbits(octets, axis=2, count=bits, bitorder="little").reshape(beats, elements * bits)
    used[:, -1] = last.reshape(-1)
    packed = np.packbits(used, axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in packed]


def _check(array: NDArray, name: str, dtype: type[np.generic], shape: tuple[int | None, ...]) -> None:
    """Raise ValueError unless the array has this type and shape; None stands for any length."""
    fits = array.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    if array.dtype != dtype or not fits:
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise ValueError(f"{name} must be {np.dtype(dtype)} [{wanted}], not {array.dtype} {list(array.shape)}")
