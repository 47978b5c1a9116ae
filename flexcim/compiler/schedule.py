"""Schedules: a mapped layer as loads and runs in order, with what each stream carries for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping as Mapped
from collections.abc import Sequence
from dataclasses import dataclass, field

from flexcim.accelerator.bus_words import run_words, tile_words
from flexcim.accelerator.instructions import LoadTile, RunTiles
from flexcim.compiler.mapping import CompileError, Mapping, Round, layer_rounds, vector_beats
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import ceil_div
from flexcim.macro.program import cut_vectors
from flexcim.packed.tiling import LayerTiling

__all__ = ["Bounds", "Placement", "ResultPart", "RunPart", "Schedule", "place_resident", "schedule_layer"]

Placement = Mapped[tuple[int, int], int]
"""The bank of each (first output tile of a round, K tile) of a layer that stays resident."""


@dataclass(frozen=True)
class RunPart:
    """What a run takes from the activation stream.

    Parameters
    ----------
    k_tile : int
        Whose inputs.
    vectors : range
        Of which vectors.
    """

    k_tile: int
    vectors: range


@dataclass(frozen=True)
class ResultPart:
    """What leaves after a run with ``last_k``: for each vector, the outputs of each tile.

    Parameters
    ----------
    output_tiles : range
        Of which output tiles, in the order of their macros.
    vectors : range
        Of which vectors.
    """

    output_tiles: range
    vectors: range


@dataclass(frozen=True)
class Bounds:
    """Cycles that each part of the accelerator is busy at least; the largest of them bounds a schedule.

    Parameters
    ----------
    compute : int
        Issue cycles of the busiest macro.
    weights, activations, results : int
        Words, or beats if they are more, of the stream; replayed beats count as activations.
    """

    compute: int
    weights: int
    activations: int
    results: int

    @property
    def cycles(self) -> int:
        """The largest."""
        return max(vars(self).values())

    @property
    def by(self) -> str:
        """The name of the largest, the first of equals."""
        return max(vars(self), key=lambda name: vars(self)[name])


@dataclass(frozen=True)
class Schedule:
    """A layer's instructions without loops, and what the streams carry.

    Parameters
    ----------
    loading : tuple of LoadTile
        The loads that come once, before the first pass; only of a layer that stays resident.
    instructions : tuple of LoadTile and RunTiles
        Each pass over the layer.
    tiles : tuple of int
        The tiles of the loads in order, as numbers of `LayerTiling.tiles`.
    runs : tuple of RunPart
        The run images in order.
    results : tuple of ResultPart
        The results in order.
    """

    loading: tuple[LoadTile, ...]
    instructions: tuple[LoadTile | RunTiles, ...]
    tiles: tuple[int, ...]
    runs: tuple[RunPart, ...]
    results: tuple[ResultPart, ...]

    def bounds(self, config: AcceleratorConfig) -> Bounds:
        """What a pass keeps each part of the accelerator busy for."""
        macro = config.macro
        compute: Counter[int] = Counter()
        weights, weight_beats, words, beats, results = 0, 0, 0, 0, 0
        for one in self.instructions:
            if isinstance(one, LoadTile):
                weights += one.words
                weight_beats += macro.weight_beats(one.rows)
                continue
            for index in one.macros:
                compute[index] += one.vectors * macro.issue_cycles(one.pattern)
            words += one.words
            beats += one.vectors * one.beats
            results += one.last_k * one.vectors * len(one.macros) * macro.result_beats(one.groups)
        return Bounds(
            compute=max(compute.values(), default=0),
            weights=max(weights, weight_beats),
            activations=max(words, beats),
            results=max(results, ceil_div(results * config.result_beat_bits, config.result_bus)),
        )


@dataclass
class _Builder:
    """Writes a schedule."""

    config: AcceleratorConfig
    tiling: LayerTiling
    resident: Placement | None
    instructions: list[LoadTile | RunTiles] = field(default_factory=list)
    tiles: list[int] = field(default_factory=list)
    runs: list[RunPart] = field(default_factory=list)
    results: list[ResultPart] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.beats = vector_beats(self.tiling)

    def loads(self, round_: Round, k_tile: int, bank: int) -> list[LoadTile]:
        """The loads of a round's K tile."""
        loads = []
        for output_tile, macro in enumerate(round_.macros, round_.first_tile):
            place = output_tile * self.tiling.k_tiles + k_tile
            rows = self.tiling.tiles[place].rows
            loads.append(LoadTile(macro=macro, bank=bank, rows=rows, words=tile_words(self.config, rows)))
            self.tiles.append(place)
        return loads

    def run(self, round_: Round, part: RunPart, bank: int, address: int | None, *, release: bool) -> None:
        """A run; with an address, the first round stores what the others replay."""
        tiling, replay = self.tiling, address is not None and round_.first_tile > 0
        tile = tiling.tiles[part.k_tile]
        words = 0 if replay else run_words(self.config, len(part.vectors), self.beats[part.k_tile])
        self.instructions.append(
            RunTiles(
                macros=round_.macros,
                bank=bank,
                pattern=tile.pattern,
                groups=tiling.groups,
                rows=tile.rows,
                vectors=len(part.vectors),
                beats=self.beats[part.k_tile],
                words=words,
                first_k=tile.first_k,
                last_k=tile.last_k,
                release=release and self.resident is None,
                replay=replay,
                store=address is not None and not replay,
                address=address or 0,
            )
        )
        if not replay:
            self.runs.append(part)
        if tile.last_k:
            tiles = range(round_.first_tile, round_.first_tile + len(round_.macros))
            self.results.append(ResultPart(tiles, part.vectors))


def schedule_layer(
    config: AcceleratorConfig,
    tiling: LayerTiling,
    vectors: int,
    mapping: Mapping,
    *,
    banks: int,
    resident: Placement | None = None,
) -> Schedule:
    """Put a mapped layer in order.

    Each load stands before the run that uses it; the queues of the accelerator let it run ahead as far as the banks
    are free. Run images are stored in the activation memory as long as it has room, K tile by K tile, and the others
    come again for each round.

    Parameters
    ----------
    config, tiling : AcceleratorConfig, LayerTiling
        The accelerator, and the layer at the mapping's G.
    vectors : int
        Vectors to multiply, at least 1.
    mapping : Mapping
        The mapping.
    banks : int
        Banks 0 ... banks - 1 of each macro are those that tiles pass through.
    resident : Placement, optional
        Where the layer's tiles stay; they then come once, and ``banks`` does not matter.

    Raises
    ------
    CompileError
        If there is no vector.
    """
    if vectors < 1:
        raise CompileError(f"a layer must multiply at least one vector, not {vectors}")
    rounds = layer_rounds(config, tiling, mapping.width)
    chunks = cut_vectors(vectors, mapping.chunk)
    builder = _Builder(config, tiling, resident)
    loading: list[LoadTile] = []
    if resident is not None:
        for round_ in rounds:
            for k_tile in range(tiling.k_tiles):
                loading += builder.loads(round_, k_tile, resident[round_.first_tile, k_tile])
    turns: Counter[int] = Counter()  # tiles that each team has had
    for passing in [chunks] if mapping.keep else [[chunk] for chunk in chunks]:
        addresses = _addresses(config, builder.beats, passing) if len(rounds) > 1 else {}
        for round_ in rounds:
            for chunk in passing:
                for k_tile in range(tiling.k_tiles):
                    if resident is not None:
                        bank = resident[round_.first_tile, k_tile]
                    else:
                        bank = (turns[round_.team] + k_tile) % banks
                        if chunk is passing[0]:
                            builder.instructions += builder.loads(round_, k_tile, bank)
                    address = addresses.get((chunk.start, k_tile))
                    builder.run(round_, RunPart(k_tile, chunk), bank, address, release=chunk is passing[-1])
            turns[round_.team] += tiling.k_tiles
    return Schedule(
        loading=tuple(loading),
        instructions=tuple(builder.instructions),
        tiles=tuple(builder.tiles),
        runs=tuple(builder.runs),
        results=tuple(builder.results),
    )


def _addresses(config: AcceleratorConfig, beats: Sequence[int], chunks: Sequence[range]) -> dict[tuple[int, int], int]:
    """The activation memory's address of each (first vector, K tile) that finds room."""
    addresses, free = {}, 0
    for chunk in chunks:
        for k_tile, each in enumerate(beats):
            size = len(chunk) * each
            if free + size <= config.activation_memory:
                addresses[chunk.start, k_tile] = free
                free += size
    return addresses


def place_resident(
    config: AcceleratorConfig, tiling: LayerTiling, width: int, free: set[tuple[int, int]]
) -> Placement | None:
    """Find a bank for each tile of a layer that is to stay on the chip.

    Parameters
    ----------
    config, tiling : AcceleratorConfig, LayerTiling
        The accelerator and the layer.
    width : int
        Macros of a run; all of them use the same bank.
    free : set of (macro, bank)
        The banks that may be used; those that are taken are removed.

    Returns
    -------
    Placement or None
        None if they do not all fit, and ``free`` is as before.
    """
    placement: dict[tuple[int, int], int] = {}
    left = set(free)
    for round_ in layer_rounds(config, tiling, width):
        for k_tile in range(tiling.k_tiles):
            fitting = (
                bank for bank in range(config.macro.banks) if all((macro, bank) in left for macro in round_.macros)
            )
            bank = next(fitting, None)
            if bank is None:
                return None
            left -= {(macro, bank) for macro in round_.macros}
            placement[round_.first_tile, k_tile] = bank
    free.intersection_update(left)
    return placement
