"""Tiling: a linear layer of any shape becomes tiles of the macro and a program of commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from flexcim.config.macro import SUM_BITS, MacroConfig, ceil_div
from flexcim.config.pattern import Pattern
from flexcim.macro.commands import MAX_VECTORS, Load, Run
from flexcim.macro.cycles import program_cycles
from flexcim.macro.program import LoadStep, Program, RunStep, Step, cut_vectors
from flexcim.packed.parts import Part, TilingError, lay_out, legal_groups

__all__ = ["LayerTiling", "Tile", "tile_layer"]


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

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Its parts, as their slot rows lie one behind the other: the base, and the rest if there is one."""
        return lay_out(self.config, self.inputs, self.patterns, self.groups)

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
        return ceil_div(self.parts[-1].stop, self.config.rows)

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
        rows = range(k_tile * self.config.rows, (k_tile + 1) * self.config.rows)
        covered = [(part, span) for part in self.parts if (span := part.span(rows))]
        stop = min(rows.stop, covered[-1][0].stop)
        return stop - rows.start, covered[0][0].pattern, tuple(span for _, span in covered)

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

        Parameters
        ----------
        vectors : int
            Vectors to multiply, at least 1.

        Raises
        ------
        TilingError
            If ``vectors`` is not at least 1.
        """
        if vectors < 1:
            raise TilingError(f"a program needs at least one vector, not {vectors}")
        several_k = self.k_tiles > 1
        limit = min(MAX_VECTORS, self.config.accumulator_depth // self.groups) if several_k else MAX_VECTORS
        chunks = cut_vectors(vectors, limit)
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
        G. By default, the legal one whose program takes the fewest cycles by the cycle model
        (`flexcim.macro.cycles`), the smaller one of equals.
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
