"""What a layer's tiles hold and see: its weights in the slot format, in cells, and the activations that meet them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flexcim.config.macro import MacroConfig
from flexcim.packed.parts import TilingError
from flexcim.packed.slots import decode_slots, encode_slots
from flexcim.packed.tiling import LayerTiling, Tile

__all__ = ["pack_layer", "sparser_cells", "tile_activations", "unpack_layer", "unpack_parts"]


def pack_layer(
    tiling: LayerTiling, weights: NDArray[np.int8], rest: NDArray[np.int8] | None = None
) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
    """Place a layer's weights in the cells of its tiles.

    Slot q = block * n + k of an output is in row q div J, aggregated index a = q mod J of its K tile; output
    j = h * C + c of its output tile is in column c of the sub-macros h * J + a (docs/architecture.md, section 2). The
    rest of a nested layer has rows of its own, behind those of the base.

    Parameters
    ----------
    tiling : LayerTiling
        The layer's tiling.
    weights : int8 [outputs, inputs]
        The weights; of a nested layer those of the base.
    rest : int8 [outputs, inputs], optional
        Of a nested layer, what the denser plan adds to them.

    Returns
    -------
    weights : int8 [tile, row, sub_macro, column]
        Weights of the cells; all rows of the macro, those that a tile does not need, and outputs past the edge, are 0.
    offsets : uint8 [tile, row, sub_macro, column]
        Offsets of the cells; 0 in cells that hold no slot of the layer.

    Raises
    ------
    TypeError
        If the weights are no int8 matrix.
    TilingError
        If a matrix has not the layer's shape, a weight does not fit W bits, or there is a rest without a nested layer
        or the other way round.
    SlotError
        If a block holds more than n non-zeros.
    """
    if (rest is None) != (tiling.rest is None):
        has, given = ("no rest", "one") if tiling.rest is None else (f"a rest of {tiling.rest}", "none")
        raise TilingError(f"the tiling has {has}, but {given} was given")
    parts = [weights] if rest is None else [weights, rest]
    values, offsets = [], []
    for matrix, pattern in zip(parts, tiling.patterns, strict=True):
        if matrix.shape != (tiling.outputs, tiling.inputs):
            raise TilingError(
                f"weights must be [{tiling.outputs}, {tiling.inputs}], the tiling's shape, not {list(matrix.shape)}"
            )
        encoded = encode_slots(matrix, pattern)
        _check_weight_bits(tiling.config, matrix)
        values.append(encoded[0])
        offsets.append(encoded[1])
    return _place(tiling, values), _place(tiling, offsets)


def _check_weight_bits(config: MacroConfig, weights: NDArray[np.int8]) -> None:
    limit = 1 << (config.weight_bits - 1)
    for extreme in (weights.min(), weights.max()):
        if not -limit <= extreme < limit:
            raise TilingError(f"weights must fit {config.weight_bits} bits, {-limit} to {limit - 1}, not {extreme}")


def _axes(tiling: LayerTiling) -> tuple[int, int, int, int, int, int]:
    """Axes that both layouts share: output tile, h, c, K tile, row, a."""
    config = tiling.config
    aggregated = config.sub_macros // tiling.groups
    return tiling.output_tiles, tiling.groups, config.columns, tiling.k_tiles, config.rows, aggregated


def _part_slots(tiling: LayerTiling) -> list[slice]:
    """The places of each part's slots among all slots of an output."""
    return [part.slots(tiling.config.sub_macros // tiling.groups) for part in tiling.parts]


def _place(tiling: LayerTiling, parts: Sequence[NDArray[np.generic]]) -> NDArray:
    """Cells [tile, row, sub_macro, column] of each part's slots [outputs, blocks, n]."""
    output_tiles, groups, columns, k_tiles, rows, aggregated = _axes(tiling)
    whole = np.zeros((output_tiles * groups * columns, k_tiles * rows * aggregated), parts[0].dtype)
    for slots, place in zip(parts, _part_slots(tiling), strict=True):
        whole[: tiling.outputs, place] = slots.reshape(tiling.outputs, -1)
    cells = whole.reshape(_axes(tiling)).transpose(0, 3, 4, 1, 5, 2)
    return np.ascontiguousarray(cells).reshape(tiling.packed_shape)


def unpack_layer(tiling: LayerTiling, weights: NDArray[np.int8], offsets: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Read a layer's weights back from the cells of its tiles; the inverse of `pack_layer`.

    Parameters
    ----------
    tiling : LayerTiling
        The layer's tiling.
    weights : int8 [tile, row, sub_macro, column]
        Weights of the cells.
    offsets : uint8 [tile, row, sub_macro, column]
        Their offsets.

    Returns
    -------
    int8 [outputs, inputs]
        The weights; of a nested layer those of its denser plan.

    Raises
    ------
    TypeError
        If an array is of the wrong kind.
    TilingError
        If an array has not the tiling's shape, a cell that holds no slot of the layer is not 0, or base and rest have
        a weight at the same place.
    SlotError
        If a block's slots are illegal.
    """
    base, *rest = unpack_parts(tiling, weights, offsets)
    return base + rest[0] if rest else base


def unpack_parts(
    tiling: LayerTiling, weights: NDArray[np.int8], offsets: NDArray[np.uint8]
) -> tuple[NDArray[np.int8], ...]:
    """Read the weights of each part of a layer back from the cells of its tiles.

    Parameters
    ----------
    tiling : LayerTiling
        The layer's tiling.
    weights : int8 [tile, row, sub_macro, column]
        Weights of the cells.
    offsets : uint8 [tile, row, sub_macro, column]
        Their offsets.

    Returns
    -------
    tuple of int8 [outputs, inputs]
        The base, and the rest if the layer is nested; no place has a weight in both.

    Raises
    ------
    TypeError, TilingError, SlotError
        As `unpack_layer` does.
    """
    values = _collect(tiling, "weights", weights)
    reaches = _collect(tiling, "offsets", offsets)
    parts = tuple(
        decode_slots(value, reach, pattern, tiling.inputs)
        for value, reach, pattern in zip(values, reaches, tiling.patterns, strict=True)
    )
    if len(parts) > 1 and (twice := (parts[0] != 0) & (parts[1] != 0)).any():
        output, place = map(int, np.argwhere(twice)[0])
        raise TilingError(
            f"output {output} has weight {parts[0][output, place]} at input {place} in the base and "
            f"{parts[1][output, place]} in the rest, but a weight is stored once"
        )
    return parts


def _collect(tiling: LayerTiling, name: str, cells: NDArray) -> list[NDArray]:
    """Each part's slots [outputs, blocks, n] of cells [tile, row, sub_macro, column]."""
    if cells.shape != tiling.packed_shape:
        raise TilingError(f"{name} must be {list(tiling.packed_shape)} for this tiling, not {list(cells.shape)}")
    output_tiles, groups, columns, k_tiles, rows, aggregated = _axes(tiling)
    whole = cells.reshape(output_tiles, k_tiles, rows, groups, aggregated, columns).transpose(0, 3, 5, 1, 2, 4)
    whole = whole.reshape(output_tiles * groups * columns, k_tiles * rows * aggregated)
    places = _part_slots(tiling)
    if whole[tiling.outputs :].any():
        raise _not_zero(name, "outputs", whole[tiling.outputs :])
    edges = [*(place.start for place in places[1:]), whole.shape[1]]
    for place, edge in zip(places, edges, strict=True):
        if whole[:, place.stop : edge].any():
            raise _not_zero(name, "inputs", whole[:, place.stop : edge])
    return [
        whole[: tiling.outputs, place].reshape(tiling.outputs, -1, pattern.n)
        for place, pattern in zip(places, tiling.patterns, strict=True)
    ]


def _not_zero(name: str, what: str, cells: NDArray) -> TilingError:
    return TilingError(f"{name} past the layer's {what} must be 0, but one is {cells[cells != 0][0]}")


def sparser_cells(tiling: LayerTiling, cells: NDArray) -> NDArray:
    """The cells of a nested layer's sparser plan: of each output tile the first K tiles, and of the one in which the
    rest begins the first rows.

    Parameters
    ----------
    tiling : LayerTiling
        The nested layer's tiling.
    cells : ndarray [tile, row, sub_macro, column]
        Its weights or offsets.

    Returns
    -------
    ndarray [tile, row, sub_macro, column]
        Those of ``tiling.sparser``.
    """
    sparser = tiling.sparser
    by_output = cells.reshape(tiling.output_tiles, tiling.k_tiles, *cells.shape[1:])
    found = by_output[:, : sparser.k_tiles].reshape(sparser.packed_shape).copy()
    for place, tile in enumerate(sparser.tiles):
        found[place, tile.rows :] = 0
    return found


def tile_activations(tiling: LayerTiling, tile: Tile, activations: NDArray[np.int8]) -> NDArray[np.int8]:
    """The inputs that a tile sees, zero past the layer's edge; a tile that holds base and rest sees some twice.

    Parameters
    ----------
    tiling : LayerTiling
        The layer's tiling.
    tile : Tile
        One of its tiles.
    activations : int8 [V, inputs]
        Vectors of the layer.

    Returns
    -------
    int8 [V, rows * w]
        The windows of the tile's rows, in natural order.

    Raises
    ------
    ValueError
        If the vectors have not the layer's inputs.
    """
    if activations.dtype != np.int8 or activations.ndim != 2 or activations.shape[1] != tiling.inputs:
        raise ValueError(
            f"activations must be int8 [any, {tiling.inputs}], not {activations.dtype} {list(activations.shape)}"
        )
    window = tiling.config.window(tile.pattern, tiling.groups)
    parts = []
    for span in tile.spans:
        part = activations[:, span.start : span.stop]
        parts.append(np.pad(part, ((0, 0), (0, -len(span) % window))))
    return np.concatenate(parts, axis=1)
