"""Tiling: a linear layer of any shape becomes tiles of the macro, their packed weights, and a program of commands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from flexcim.commands import MAX_VECTORS, Load, Run
from flexcim.config import SUM_BITS, MacroConfig, ceil_div
from flexcim.cycles import program_cycles
from flexcim.errors import FlexCiMError
from flexcim.pattern import Pattern
from flexcim.program import LoadStep, Program, RunStep, Step
from flexcim.slots import decode_slots, encode_slots

__all__ = ["LayerTiling", "Tile", "TilingError", "pack_layer", "tile_layer", "unpack_layer"]


class TilingError(FlexCiMError):
    """A layer that does not fit the macro; the message names the layer's value and the limit."""


@dataclass(frozen=True)
class Tile:
    """One tile of a layer: K inputs by G * C outputs, less at the layer's edges.

    Parameters
    ----------
    output_tile, k_tile : int
        Its place among the tiles along the outputs and along the inputs.
    rows : int
        Slot rows that it needs.
    first_k, last_k : bool
        Whether it is the first, the last tile along the inputs.
    """

    output_tile: int
    k_tile: int
    rows: int
    first_k: bool
    last_k: bool


@dataclass(frozen=True)
class LayerTiling:
    """A layer's shape, pattern and output groups on a macro, and its tiles (docs/architecture.md, section 2).

    Parameters
    ----------
    config : MacroConfig
        The macro.
    outputs, inputs : int
        Shape of the layer's weight matrix.
    pattern : Pattern
        Its pattern, from the menu.
    groups : int
        G.
    reason : str
        Why this G, for a reader.

    Raises
    ------
    ConfigError
        If the pattern is not on the menu, or not legal at this G.
    TilingError
        If the layer is empty, or its sums could leave 32 bits.
    """

    config: MacroConfig
    outputs: int
    inputs: int
    pattern: Pattern
    groups: int
    reason: str

    def __post_init__(self) -> None:
        _check_layer(self.config, self.outputs, self.inputs, self.pattern)
        self.config.check_mode(self.pattern, self.groups)

    @property
    def tile_inputs(self) -> int:
        """K, inputs of a whole tile."""
        return self.config.tile_inputs(self.pattern, self.groups)

    @property
    def tile_outputs(self) -> int:
        """G * C, outputs of a whole tile."""
        return self.config.tile_outputs(self.groups)

    @property
    def k_tiles(self) -> int:
        """Tiles along the inputs."""
        return ceil_div(self.inputs, self.tile_inputs)

    @property
    def output_tiles(self) -> int:
        """Tiles along the outputs."""
        return ceil_div(self.outputs, self.tile_outputs)

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """All tiles, those along the inputs (the K tiles of the same outputs) next to each other."""
        window = self.config.window(self.pattern, self.groups)
        return tuple(
            Tile(
                output_tile=output_tile,
                k_tile=k_tile,
                rows=min(self.config.rows, ceil_div(self.inputs - k_tile * self.tile_inputs, window)),
                first_k=k_tile == 0,
                last_k=k_tile == self.k_tiles - 1,
            )
            for output_tile in range(self.output_tiles)
            for k_tile in range(self.k_tiles)
        )

    @property
    def packed_shape(self) -> tuple[int, int, int, int]:
        """Shape of the packed arrays: [tile, row, sub_macro, column]."""
        return len(self.tiles), self.config.rows, self.config.sub_macros, self.config.columns

    def program(self, vectors: int) -> Program:
        """The commands that multiply ``vectors`` vectors by the layer, banks in rotation.

        A layer of one K tile runs all vectors on one load of each tile, in several runs if one command cannot name them
        all; only the last releases the bank. With several K tiles the sums wait in the accumulator's memory, so the
        vectors are cut into the fewest chunks that fit it, of nearly equal sizes (a short last chunk would not hide the
        loads behind it), and each chunk loads the tiles of an output tile again.

        Raises
        ------
        TilingError
            If ``vectors`` is not at least 1.
        """
        if vectors < 1:
            raise TilingError(f"a program needs at least one vector, not {vectors}")
        several_k = self.k_tiles > 1
        limit = min(MAX_VECTORS, self.config.accumulator_depth // self.groups) if several_k else MAX_VECTORS
        chunks = _chunks(vectors, limit)
        steps: list[Step] = []
        loads = 0
        for output_tile in range(self.output_tiles):
            first = output_tile * self.k_tiles
            # The tile of each load and the chunks that run on it.
            plan = (
                [(first + k, [chunk]) for chunk in chunks for k in range(self.k_tiles)]
                if several_k
                else [(first, chunks)]
            )
            for tile, tile_chunks in plan:
                bank = loads % self.config.banks
                steps.append(LoadStep(Load(bank=bank, rows=self.tiles[tile].rows), tile))
                steps += self._runs(tile, bank, tile_chunks)
                loads += 1
        return Program(tuple(steps))

    def _runs(self, tile: int, bank: int, chunks: list[range]) -> Iterator[RunStep]:
        """Runs of the chunks on one load of a tile; the last one releases the bank."""
        for chunk in chunks:
            command = Run(
                bank=bank,
                pattern=self.pattern,
                groups=self.groups,
                rows=self.tiles[tile].rows,
                vectors=len(chunk),
                first_k=self.tiles[tile].first_k,
                last_k=self.tiles[tile].last_k,
                release=chunk is chunks[-1],
            )
            yield RunStep(command, tile, chunk.start)


def _chunks(vectors: int, limit: int) -> list[range]:
    """Cut 0 ... vectors - 1 into the fewest ranges of at most ``limit``, whose sizes differ by one at most."""
    count = ceil_div(vectors, limit)
    edges = [i * vectors // count for i in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(edges)]


def _check_layer(config: MacroConfig, outputs: int, inputs: int, pattern: Pattern) -> None:
    """Raise TilingError unless the layer has a shape and its sums fit 32 bits."""
    for name, value in (("outputs", outputs), ("inputs", inputs)):
        if value < 1:
            raise TilingError(f"a layer must have at least one of {name}, not {value}")
    kept = inputs // pattern.m * pattern.n + min(pattern.n, inputs % pattern.m)
    # The largest product is that of the two most negative numbers.
    largest = kept << (config.weight_bits - 1 + config.activation_bits - 1)
    if largest >= 1 << (SUM_BITS - 1):
        raise TilingError(
            f"a layer of {inputs} inputs keeps {kept} at {pattern}, and their products of {config.weight_bits} x "
            f"{config.activation_bits} bits could add up to {largest}, but a sum has {SUM_BITS} bits"
        )


def tile_layer(
    config: MacroConfig, outputs: int, inputs: int, pattern: Pattern, *, groups: int | None = None, vectors: int = 64
) -> LayerTiling:
    """Tile a linear layer on a macro.

    Parameters
    ----------
    config : MacroConfig
        The macro.
    outputs, inputs : int
        Shape of the layer's weight matrix.
    pattern : Pattern
        Its pattern, from the menu.
    groups : int, optional
        G. By default, the legal one whose program takes the fewest cycles by the cycle model (`flexcim.cycles`), the
        smaller one of equals.
    vectors : int
        Vectors for which the cycles are compared.

    Raises
    ------
    ConfigError
        If the pattern is not on the menu, or not legal at this G.
    TilingError
        If the layer is empty, or its sums could leave 32 bits.
    """
    _check_layer(config, outputs, inputs, pattern)
    if groups is not None:
        return LayerTiling(config, outputs, inputs, pattern, groups, f"G = {groups} was asked for")
    cycles = _cycles_by_groups(config, outputs, inputs, pattern, vectors)
    best = min(cycles, key=lambda candidate: (cycles[candidate], candidate))
    others = [f"{cycles[candidate]} at G = {candidate}" for candidate in cycles if candidate != best]
    reason = f"G = {best} takes {cycles[best]} cycles for {vectors} vectors, "
    reason += f"against {', '.join(others)}" if others else f"the only G legal for {pattern}"
    return LayerTiling(config, outputs, inputs, pattern, best, reason)


@lru_cache(maxsize=1024)  # the layers of a model share a few shapes
def _cycles_by_groups(config: MacroConfig, outputs: int, inputs: int, pattern: Pattern, vectors: int) -> dict[int, int]:
    """Predicted cycles of a layer's program at each legal G."""
    return {
        groups: program_cycles(
            config, LayerTiling(config, outputs, inputs, pattern, groups, "candidate").program(vectors)
        ).cycles
        for groups in config.legal_groups(pattern)
    }


def pack_layer(tiling: LayerTiling, weights: NDArray[np.int8]) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
    """Place a layer's weights in the cells of its tiles.

    Slot q = block * n + k of an output is in row q div J, aggregated index a = q mod J of its K tile; output
    j = h * C + c of its output tile is in column c of the sub-macros h * J + a (docs/architecture.md, section 2).

    Parameters
    ----------
    tiling : LayerTiling
        The layer's tiling.
    weights : int8 [outputs, inputs]
        The weights.

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
        If the matrix has not the layer's shape, or a weight does not fit W bits.
    SlotError
        If a block holds more than n non-zeros.
    """
    if weights.shape != (tiling.outputs, tiling.inputs):
        raise TilingError(
            f"weights must be [{tiling.outputs}, {tiling.inputs}], the tiling's shape, not {list(weights.shape)}"
        )
    values, offsets = encode_slots(weights, tiling.pattern)
    _check_weight_bits(tiling.config, weights)
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


def _place(tiling: LayerTiling, slots: NDArray[np.generic]) -> NDArray:
    """Cells [tile, row, sub_macro, column] of slots [outputs, blocks, n]."""
    output_tiles, groups, columns, k_tiles, rows, aggregated = _axes(tiling)
    flat = slots.reshape(tiling.outputs, -1)
    whole = np.zeros((output_tiles * groups * columns, k_tiles * rows * aggregated), slots.dtype)
    whole[: flat.shape[0], : flat.shape[1]] = flat
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
        The weights.

    Raises
    ------
    TypeError
        If an array is of the wrong kind.
    TilingError
        If an array has not the tiling's shape, or a cell that holds no slot of the layer is not 0.
    SlotError
        If a block's slots are illegal.
    """
    values = _collect(tiling, "weights", weights)
    return decode_slots(values, _collect(tiling, "offsets", offsets), tiling.pattern, tiling.inputs)


def _collect(tiling: LayerTiling, name: str, cells: NDArray) -> NDArray:
    """Slots [outputs, blocks, n] of cells [tile, row, sub_macro, column]."""
    if cells.shape != tiling.packed_shape:
        raise TilingError(f"{name} must be {list(tiling.packed_shape)} for this tiling, not {list(cells.shape)}")
    output_tiles, groups, columns, k_tiles, rows, aggregated = _axes(tiling)
    whole = cells.reshape(output_tiles, k_tiles, rows, groups, aggregated, columns).transpose(0, 3, 5, 1, 2, 4)
    whole = whole.reshape(output_tiles * groups * columns, k_tiles * rows * aggregated)
    blocks = ceil_div(tiling.inputs, tiling.pattern.m)
    slots = blocks * tiling.pattern.n
    for part, what in ((whole[tiling.outputs :], "outputs"), (whole[:, slots:], "inputs")):
        if part.any():
            raise TilingError(f"{name} past the layer's {what} must be 0, but one is {part[part != 0][0]}")
    return whole[: tiling.outputs, :slots].reshape(tiling.outputs, blocks, tiling.pattern.n)
