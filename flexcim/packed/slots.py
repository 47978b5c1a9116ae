"""The slot format: sparse blocks of weights as sorted slots with sliding offsets (docs/architecture.md, section 2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flexcim.config.macro import ceil_div
from flexcim.config.pattern import Pattern
from flexcim.errors import FlexCiMError

__all__ = ["SlotError", "decode_slots", "encode_slots"]


class SlotError(FlexCiMError):
    """Weights that break their pattern, or slots that stand for no weights; the message names the first place."""


# Blocks that are worked on at once: their planes of one byte per block then stay in a core's cache.
_CHUNK_BLOCKS = 1 << 14


def encode_slots(weights: NDArray[np.int8], pattern: Pattern) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
    """Write weights in the canonical slot format.

    Each block's non-zero weights are completed to n positions with its lowest-numbered free positions and sorted,
    p_0 < ... < p_{n-1}; slot k stores the weight at p_k and the offset p_k - k. A last block of r < m inputs may hold
    min(n, r) non-zeros, its inputs past the edge count as free positions.

    Parameters
    ----------
    weights : int8 [outputs, inputs]
        Any number of inputs.
    pattern : Pattern
        The pattern that each block of each output keeps.

    Returns
    -------
    values : int8 [outputs, blocks, n]
        Weights of the slots; blocks = ceil(inputs / m).
    offsets : uint8 [outputs, blocks, n]
        Their offsets, 0 ... m - n.

    Raises
    ------
    TypeError
        If the weights are no int8 matrix.
    SlotError
        If the pattern's offsets do not fit eight bits, or a block holds more than n non-zeros; the message names the
        output, the block and both numbers.
    """
    if weights.dtype != np.int8 or weights.ndim != 2:
        raise TypeError(f"weights must be int8 [outputs, inputs], not {weights.dtype} {list(weights.shape)}")
    _check_offset_width(pattern)
    n, m = pattern.n, pattern.m
    outputs, inputs = weights.shape
    if pattern.is_dense:
        return weights[:, :, np.newaxis].copy(), np.zeros((outputs, inputs, 1), np.uint8)
    blocks = ceil_div(inputs, m)
    if inputs < blocks * m:
        weights = np.pad(weights, ((0, 0), (0, blocks * m - inputs)))
    source = weights.reshape(outputs * blocks, m)
    values = np.empty((outputs * blocks, n), np.int8)
    offsets = np.empty((outputs * blocks, n), np.uint8)
    for start in range(0, len(source), _CHUNK_BLOCKS):
        part = slice(start, start + _CHUNK_BLOCKS)
        chunk = np.ascontiguousarray(source[part].T)
        kept = chunk != 0
        counts = kept.sum(axis=0, dtype=np.uint16)
        if (counts > n).any():
            place = int(np.argmax(counts > n))
            output, block = divmod(start + place, blocks)
            raise SlotError(
                f"output {output}, block {block} holds {counts[place]} non-zero weights, "
                f"but pattern {pattern} keeps at most n = {n}"
            )
        chunk_values, chunk_offsets = _encode_planes(chunk, kept, n - counts, pattern)
        values[part] = chunk_values.T.view(np.int8)
        offsets[part] = chunk_offsets.T
    return values.reshape(outputs, blocks, n), offsets.reshape(outputs, blocks, n)


def _encode_planes(
    weights: NDArray[np.int8], kept: NDArray[np.bool_], free: NDArray[np.uint16], pattern: Pattern
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Encode blocks that lie side by side: weights and kept are [m, blocks], free [blocks] counts the slots to fill."""
    n, m = pattern.n, pattern.m
    values = np.zeros((n, weights.shape[1]), np.uint8)
    offsets = np.zeros_like(values)
    rank = np.zeros(weights.shape[1], np.uint16)
    free = free.copy()
    for p in range(m):
        fill = ~kept[p] & (free > 0)
        free -= fill
        selected = kept[p] | fill
        # Slot k can only hold the positions k ... k + m - n, so position p can only be in these slots.
        for k in range(max(0, p - pattern.max_offset), min(n, p + 1)):
            hit = selected & (rank == k)
            mask = -hit.view(np.uint8)  # 0xFF where hit
            values[k] |= weights[p].view(np.uint8) & mask
            offsets[k] |= np.uint8(p - k) & mask
        rank += selected
    return values, offsets


def decode_slots(
    values: NDArray[np.int8], offsets: NDArray[np.uint8], pattern: Pattern, inputs: int
) -> NDArray[np.int8]:
    """Read weights back from the slot format; any legal offsets are accepted, not only the canonical ones.

    Slot k of a block stands for position k + offset. Where the offsets of a block descend, two slots can name the same
    position; the hardware then adds both products, so their weights are added here.

    Parameters
    ----------
    values : int8 [outputs, blocks, n]
        Weights of the slots.
    offsets : uint8 [outputs, blocks, n]
        Their offsets.
    pattern : Pattern
        The pattern.
    inputs : int
        Inputs of the layer; ceil(inputs / m) must be the number of blocks.

    Returns
    -------
    int8 [outputs, inputs]
        The weights.

    Raises
    ------
    TypeError
        If an array is of the wrong kind or shape.
    SlotError
        If an offset is larger than m - n, a non-zero weight lies past the last input, or weights on one position add up
        to a number that does not fit int8; the message names the first place.
    """
    _check_offset_width(pattern)
    n, m = pattern.n, pattern.m
    blocks = ceil_div(inputs, m)
    for name, array, dtype in (("values", values, np.int8), ("offsets", offsets, np.uint8)):
        if array.dtype != dtype or array.ndim != 3 or array.shape[1:] != (blocks, n) or len(array) != len(values):
            raise TypeError(
                f"{name} of {inputs} inputs at {pattern} must be {np.dtype(dtype)} [outputs, {blocks}, {n}], "
                f"not {array.dtype} {list(array.shape)}"
            )
    outputs = len(values)
    if offsets.size and offsets.max() > pattern.max_offset:
        place = np.unravel_index(int(np.argmax(offsets > pattern.max_offset)), offsets.shape)
        raise SlotError(
            f"output {place[0]}, block {place[1]}, slot {place[2]} has offset {offsets[place]}, "
            f"but pattern {pattern} reaches only m - n = {pattern.max_offset}"
        )
    if pattern.is_dense:
        return values[:, :, 0].copy()
    flat_values, flat_offsets = values.reshape(-1, n), offsets.reshape(-1, n)
    decoded = np.empty((outputs * blocks, m), np.int8)
    for start in range(0, len(decoded), _CHUNK_BLOCKS):
        part = slice(start, start + _CHUNK_BLOCKS)
        chunk_values = np.ascontiguousarray(flat_values[part].T)
        chunk_offsets = np.ascontiguousarray(flat_offsets[part].T)
        if (chunk_offsets[1:] >= chunk_offsets[:-1]).all():
            decoded[part] = _decode_planes(chunk_values, chunk_offsets, pattern, np.int8).T
            continue
        # Descending offsets: positions may coincide, so add in a width that cannot overflow.
        sums = _decode_planes(chunk_values, chunk_offsets, pattern, np.int32)
        wrong = (sums != sums.astype(np.int8)).T
        if wrong.any():
            block_in_chunk, position = divmod(int(np.argmax(wrong)), m)
            output, block = divmod(start + block_in_chunk, blocks)
            raise SlotError(
                f"output {output}, block {block}, position {position}: weights on one position add up to "
                f"{sums[position, block_in_chunk]}, which does not fit int8"
            )
        decoded[part] = sums.T
    decoded = decoded.reshape(outputs, blocks * m)
    if decoded[:, inputs:].any():
        row, column = np.argwhere(decoded[:, inputs:])[0]
        raise SlotError(
            f"output {row} has weight {decoded[row, inputs + column]} at input {inputs + column}, "
            f"but the layer has only {inputs} inputs"
        )
    return np.ascontiguousarray(decoded[:, :inputs])


def _decode_planes(
    values: NDArray[np.int8], offsets: NDArray[np.uint8], pattern: Pattern, dtype: type[np.signedinteger]
) -> NDArray[np.signedinteger]:
    """Decode blocks that lie side by side, [n, blocks], to sums of the given type [m, blocks]."""
    sums = np.zeros((pattern.m, values.shape[1]), dtype)
    for k in range(pattern.n):
        for offset in range(pattern.max_offset + 1):
            sums[k + offset] += values[k] & -(offsets[k] == offset).view(np.int8)
    return sums


def _check_offset_width(pattern: Pattern) -> None:
    if pattern.max_offset > 255:
        raise SlotError(f"pattern {pattern} needs offsets up to {pattern.max_offset}, but a stored offset has 8 bits")
