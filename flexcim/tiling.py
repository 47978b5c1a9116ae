"""Tiling: a linear layer of any shape becomes tiles of the macro, their packed weights, and a program of commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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

__all__ = [
    "LayerTiling",
    "Tile",
    "TilingError",
    "legal_groups",
    "pack_layer",
    "sparser_cells",
    "tile_layer",
    "unpack_layer",
    "unpack_parts",
]


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
    pattern : Pattern
        The pattern of its slots.
    spans : tuple of range
        The inputs that its rows cover, in order; each range begins with a row. There are two where the base of a nested
        layer ends and its rest begins, otherwise one.
    """

    output_tile: int
    k_tile: int
    rows: int
    first_k: bool
    last_k: bool
    pattern: Pattern
    spans: tuple[range, ...]


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
    rest : Pattern, optional
        Of a nested layer, the pattern of the weights that its denser plan has besides those of its sparser plan, the
        *base*, whose pattern is ``pattern``. The rest's slots cover all inputs once more, behind the base's.

    Raises
    ------
    ConfigError
        If a pattern is not on the menu, or not legal at this G.
    TilingError
        If the layer is empty, or its sums could leave 32 bits.
    """

    config: MacroConfig
    outputs: int
    inputs: int
    pattern: Pattern
    groups: int
    reason: str
    rest: Pattern | None = None

    def __post_init__(self) -> None:
        _check_layer(self.config, self.outputs, self.inputs, self.patterns)
        for pattern in self.patterns:
            self.config.check_mode(pattern, self.groups)

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """The patterns of its parts: of the base, and of the rest if there is one."""
        return (self.pattern,) if self.rest is None else (self.pattern, self.rest)

    @property
    def pattern_names(self) -> str:
        """The patterns as a reader sees them: ``4:8``, or ``2:8 + 2:8`` of a nested layer."""
        return " + ".join(map(str, self.patterns))

    @property
    def sparser(self) -> LayerTiling:
        """The layer under its sparser plan, the base alone; itself if it has only one plan."""
        return self if self.rest is None else replace(self, rest=None)

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
        """Tiles along the inputs, those of the rest included."""
        return ceil_div(self._starts[-1] + self._part_rows(self.patterns[-1]), self.config.rows)

    def _part_rows(self, pattern: Pattern) -> int:
        """Slot rows of a part."""
        return ceil_div(self.inputs, self.config.window(pattern, self.groups))

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        """The first slot row of each part, counted through all K tiles.

        Since a run has one pattern, a rest of another one begins with a tile; one of the same pattern goes on in the
        row behind the base, so that a layer of few inputs need not have more tiles, and the base's part of that tile
        are its first rows.
        """
        if self.rest is None:
            return (0,)
        rows = self._part_rows(self.pattern)
        return (0, rows if self.rest == self.pattern else ceil_div(rows, self.config.rows) * self.config.rows)

    @property
    def output_tiles(self) -> int:
        """Tiles along the outputs."""
        return ceil_div(self.outputs, self.tile_outputs)

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """All tiles, those along the inputs (the K tiles of the same outputs) next to each other."""
        along_inputs = [self._k_tile(k_tile) for k_tile in range(self.k_tiles)]
        return tuple(
            Tile(
                output_tile=output_tile,
                k_tile=k_tile,
                rows=rows,
                first_k=k_tile == 0,
                last_k=k_tile == self.k_tiles - 1,
                pattern=pattern,
                spans=spans,
            )
            for output_tile in range(self.output_tiles)
            for k_tile, (rows, pattern, spans) in enumerate(along_inputs)
        )

    def _k_tile(self, k_tile: int) -> tuple[int, Pattern, tuple[range, ...]]:
        """Rows, pattern and spans of a K tile."""
        first, found = k_tile * self.config.rows, []
        for start, pattern in zip(self._starts, self.patterns, strict=True):
            window = self.config.window(pattern, self.groups)
            top = max(first, start)
            bottom = min(first + self.config.rows, start + self._part_rows(pattern))
            if top < bottom:
                span = range((top - start) * window, min((bottom - start) * window, self.inputs))
                found.append((bottom - first, pattern, span))
        return found[-1][0], found[0][1], tuple(span for _, _, span in found)

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
                pattern=self.tiles[tile].pattern,
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


def _check_layer(config: MacroConfig, outputs: int, inputs: int, patterns: Sequence[Pattern]) -> None:
    """Raise TilingError unless the layer has a shape and its sums fit 32 bits."""
    for name, value in (("outputs", outputs), ("inputs", inputs)):
        if value < 1:
            raise TilingError(f"a layer must have at least one of {name}, not {value}")
    kept = sum(inputs // pattern.m * pattern.n + min(pattern.n, inputs % pattern.m) for pattern in patterns)
    # The largest product is that of the two most negative numbers.
    largest = kept << (config.weight_bits - 1 + config.activation_bits - 1)
    if largest >= 1 << (SUM_BITS - 1):
        raise TilingError(
            f"a layer of {inputs} inputs keeps {kept} at {' + '.join(map(str, patterns))}, and their products of "
            f"{config.weight_bits} x {config.activation_bits} bits could add up to {largest}, but a sum has "
            f"{SUM_BITS} bits"
        )


def tile_layer(
    config: MacroConfig,
    outputs: int,
    inputs: int,
    pattern: Pattern,
    *,
    rest: Pattern | None = None,
    groups: int | None = None,
    vectors: int = 64,
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
    rest : Pattern, optional
        Of a nested layer, the pattern of the rest, from the menu.
    groups : int, optional
        G. By default, the legal one whose program takes the fewest cycles by the cycle model (`flexcim.cycles`), the
        smaller one of equals.
    vectors : int
        Vectors for which the cycles are compared.

    Raises
    ------
    ConfigError
        If a pattern is not on the menu, or not legal at this G.
    TilingError
        If the layer is empty, or its sums could leave 32 bits.
    """
    patterns = (pattern,) if rest is None else (pattern, rest)
    _check_layer(config, outputs, inputs, patterns)
    if groups is not None:
        return LayerTiling(config, outputs, inputs, pattern, groups, f"G = {groups} was asked for", rest)
    cycles = _cycles_by_groups(config, outputs, inputs, patterns, vectors)
    best = min(cycles, key=lambda candidate: (cycles[candidate], candidate))
    others = [f"{cycles[candidate]} at G = {candidate}" for candidate in cycles if candidate != best]
    reason = f"G = {best} takes {cycles[best]} cycles for {vectors} vectors, "
    reason += f"against {', '.join(others)}" if others else f"the only G legal for {' + '.join(map(str, patterns))}"
    return LayerTiling(config, outputs, inputs, pattern, best, reason, rest)


def legal_groups(config: MacroConfig, patterns: Sequence[Pattern]) -> tuple[int, ...]:
    """Group counts at which all patterns of a layer's parts are legal; 1 always is.

    Raises
    ------
    ConfigError
        If a pattern is not on the menu.
    """
    legal = [config.legal_groups(pattern) for pattern in patterns]
    return tuple(groups for groups in config.group_counts if all(groups in one for one in legal))


@lru_cache(maxsize=1024)  # the layers of a model share a few shapes
def _cycles_by_groups(
    config: MacroConfig, outputs: int, inputs: int, patterns: tuple[Pattern, ...], vectors: int
) -> dict[int, int]:
    """Predicted cycles of a layer's program at each legal G."""
    pattern, *rest = patterns
    return {
        groups: program_cycles(
            config, LayerTiling(config, outputs, inputs, pattern, groups, "candidate", *rest).program(vectors)
        ).cycles
        for groups in legal_groups(config, patterns)
    }


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
    """The places of each part's slots among all slots of an output, those past the inputs included."""
    aggregated = tiling.config.sub_macros // tiling.groups
    return [
        slice(start * aggregated, start * aggregated + ceil_div(tiling.inputs, pattern.m) * pattern.n)
        for start, pattern in zip(tiling._starts, tiling.patterns, strict=True)
    ]


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
    """The same for each part: the base, and the rest if the layer is nested; no place is in both."""
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
