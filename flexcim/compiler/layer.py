"""A layer compiled for an accelerator: the mapping that the cycle model finds fastest, its programs and its images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from flexcim.accelerator.bus_words import result_vectors, run_image, tile_image
from flexcim.accelerator.cycles import AcceleratorCycles, AcceleratorTiming
from flexcim.accelerator.instructions import AcceleratorProgram
from flexcim.compiler.mapping import CompileError, Mapping, candidate_mappings
from flexcim.compiler.program_memory import make_programs
from flexcim.compiler.schedule import Schedule, place_resident, schedule_layer
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.pattern import Pattern
from flexcim.macro.beats import activation_beats
from flexcim.packed.cells import tile_activations
from flexcim.packed.parts import legal_groups
from flexcim.packed.tiling import LayerTiling

__all__ = ["CompiledLayer", "all_banks", "compile_layer", "compile_resident_layer"]


@dataclass(frozen=True, eq=False, kw_only=True)
class CompiledLayer:
    """A layer as programs.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    tiling : LayerTiling
        The layer at the mapping's G.
    vectors : int
        Vectors of a pass.
    mapping : Mapping
        The mapping.
    schedule : Schedule
        Its loads and runs.
    loading : tuple of AcceleratorProgram
        Programs that come once, before the first pass; only if the layer stays resident.
    programs : tuple of AcceleratorProgram
        Those of each pass, one after the other.
    """

    config: AcceleratorConfig
    tiling: LayerTiling
    vectors: int
    mapping: Mapping
    schedule: Schedule
    loading: tuple[AcceleratorProgram, ...]
    programs: tuple[AcceleratorProgram, ...]

    @property
    def resident(self) -> bool:
        """Whether the weights stay on the chip."""
        return bool(self.loading)

    @cached_property
    def cycles(self) -> AcceleratorCycles:
        """What a pass costs, by the exact cycle model: the sum of its programs. Programs begin when all is at rest;
        what the host takes to start them is not in it."""
        timing = AcceleratorTiming(self.config)
        for program in self.loading:
            timing.run(program)
        return _sum(timing.run(program) for program in self.programs)

    @property
    def utilisation(self) -> float:
        """Share of the cells' multiplications, zeros stored in slots included, that are the layer's: 1 if each cell of
        each macro has a slot of the layer in each cycle."""
        tiling, macro = self.tiling, self.config.macro
        busy = 0
        for pattern in tiling.patterns:
            blocks, remainder = divmod(tiling.inputs, pattern.m)
            slots = tiling.outputs * (blocks * pattern.n + min(pattern.n, remainder))
            busy += slots * self.vectors * macro.issue_cycles(pattern)
        cells = self.config.macros * macro.sub_macros * macro.rows * macro.columns
        return busy / (cells * self.cycles.cycles)

    # -- images --------------------------------------------------------------------------------------------------------

    def weight_image(self, weights: NDArray[np.int8], offsets: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The weight stream of the programs, those of ``loading`` or of each pass: uint8 [words, weight_bus / 8].

        Parameters
        ----------
        weights, offsets : int8 and uint8 [tile, row, sub_macro, column]
            The layer's cells for `tiling`.

        Raises
        ------
        ValueError
            If the arrays have another shape, or a value does not fit its bits.
        """
        for name, array in (("weights", weights), ("offsets", offsets)):
            if array.shape != self.tiling.packed_shape:
                raise ValueError(f"{name} must be {list(self.tiling.packed_shape)}, not {list(array.shape)}")
        images = {}
        for place in set(self.schedule.tiles):
            rows = self.tiling.tiles[place].rows
            images[place] = tile_image(self.config, weights[place, :rows], offsets[place, :rows])
        return np.concatenate([images[place] for place in self.schedule.tiles])

    def activation_image(self, activations: NDArray[np.int8]) -> NDArray[np.uint8]:
        """The activation stream of a pass: uint8 [words, activation_bus / 8].

        Parameters
        ----------
        activations : int8 [vectors, inputs]
            The vectors.

        Raises
        ------
        ValueError
            If they are not so many, or a value does not fit its bits.
        """
        if activations.shape != (self.vectors, self.tiling.inputs):
            raise ValueError(
                f"activations must be [{self.vectors}, {self.tiling.inputs}], not {list(activations.shape)}"
            )
        tiling, images = self.tiling, {}
        for part in dict.fromkeys(self.schedule.runs):
            tile = tiling.tiles[part.k_tile]
            inputs = tile_activations(tiling, tile, activations[part.vectors.start : part.vectors.stop])
            beats = activation_beats(self.config.macro, tile.pattern, tiling.groups, tile.rows, inputs)
            images[part] = run_image(self.config, beats)
        return np.concatenate([images[part] for part in self.schedule.runs])

    def outputs(self, results: NDArray[np.uint8]) -> NDArray[np.int32]:
        """The layer's sums, int32 [vectors, outputs].

        Parameters
        ----------
        results : uint8 [bytes]
            The bytes of the result stream of a whole pass, those that ``tkeep`` marks.

        Raises
        ------
        ValueError
            If there are more or fewer.
        """
        tiling, config = self.tiling, self.config
        per_vector = config.macro.result_beats(tiling.groups) * config.result_beat_bits // 8
        sums = np.empty((self.vectors, tiling.output_tiles, tiling.tile_outputs), np.int32)
        place = 0
        for part in self.schedule.results:
            size = len(part.vectors) * len(part.output_tiles) * per_vector
            found = result_vectors(
                config, results[place : place + size], len(part.vectors), len(part.output_tiles), tiling.groups
            )
            vectors, tiles = (slice(one.start, one.stop) for one in (part.vectors, part.output_tiles))
            sums[vectors, tiles] = found
            place += size
        if place != len(results):
            raise ValueError(f"a pass has {place} bytes of results, not {len(results)}")
        return sums.reshape(self.vectors, -1)[:, : tiling.outputs]


def _sum(parts: Iterator[AcceleratorCycles]) -> AcceleratorCycles:
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return AcceleratorCycles(*map(sum, columns))


def all_banks(config: AcceleratorConfig) -> frozenset[tuple[int, int]]:
    """The (macro, bank) that an accelerator has."""
    return frozenset((macro, bank) for macro in range(config.macros) for bank in range(config.macro.banks))


@lru_cache(maxsize=256)  # the layers of a model share a few shapes
def compile_layer(
    config: AcceleratorConfig,
    outputs: int,
    inputs: int,
    pattern: Pattern,
    vectors: int,
    *,
    rest: Pattern | None = None,
    banks: int | None = None,
    groups: int | None = None,
) -> CompiledLayer:
    """Compile a layer whose weights stream through the chip.

    Every mapping (`candidate_mappings`, at each legal G) is scheduled; the exact cycle model then chooses among them,
    beginning with the one of the lowest bound, until no other bound is below the cycles that were found.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    outputs, inputs, pattern : int, int, Pattern
        The layer.
    vectors : int
        Vectors of a pass.
    rest : Pattern, optional
        Of a nested layer under its denser plan, the pattern of the rest.
    banks : int, optional
        Its tiles pass through the banks 0 ... banks - 1 of each macro; by default, all of them.
    groups : int, optional
        G; by default, the fastest.

    Raises
    ------
    CompileError, TilingError, ConfigError, ProgramError
        If the layer cannot lie on the accelerator.
    """
    banks = config.macro.banks if banks is None else banks
    if vectors < 1:
        raise CompileError(f"a layer must multiply at least one vector, not {vectors}")
    candidates = []
    for tiling in _tilings(config, outputs, inputs, pattern, rest, groups):
        for mapping in candidate_mappings(config, tiling, vectors, banks):
            schedule = schedule_layer(config, tiling, vectors, mapping, banks=banks)
            candidates.append((schedule.bounds(config).cycles, mapping, tiling, schedule))
    return _fastest(config, vectors, candidates)


def compile_resident_layer(
    config: AcceleratorConfig,
    outputs: int,
    inputs: int,
    pattern: Pattern,
    vectors: int,
    free: AbstractSet[tuple[int, int]],
    *,
    rest: Pattern | None = None,
) -> CompiledLayer | None:
    """Compile a layer whose weights stay on the chip; None if they do not fit.

    Banks are what such layers compete for: the fastest mapping is sought among those with the fewest tiles.

    Parameters
    ----------
    config, outputs, inputs, pattern, vectors, rest :
        As for `compile_layer`.
    free : set of (macro, bank)
        The banks that it may have.
    """
    candidates = []
    for tiling in _tilings(config, outputs, inputs, pattern, rest, None):
        if len(tiling.tiles) > len(free):
            continue
        for mapping in candidate_mappings(config, tiling, vectors, config.macro.banks):
            placement = place_resident(config, tiling, mapping.width, set(free))
            if placement is None or mapping.keep:
                continue
            schedule = schedule_layer(config, tiling, vectors, mapping, banks=config.macro.banks, resident=placement)
            candidates.append((schedule.bounds(config).cycles, mapping, tiling, schedule))
    fewest = min((len(tiling.tiles) for _, _, tiling, _ in candidates), default=0)
    candidates = [one for one in candidates if len(one[2].tiles) == fewest]
    return _fastest(config, vectors, candidates) if candidates else None


def _tilings(
    config: AcceleratorConfig,
    outputs: int,
    inputs: int,
    pattern: Pattern,
    rest: Pattern | None,
    groups: int | None,
) -> list[LayerTiling]:
    """The layer at each G, or at the given one."""
    patterns = (pattern,) if rest is None else (pattern, rest)
    counts: Sequence[int] = legal_groups(config.macro, patterns) if groups is None else [groups]
    return [LayerTiling(config.macro, outputs, inputs, pattern, one, "chosen by the compiler", rest) for one in counts]


def _fastest(
    config: AcceleratorConfig,
    vectors: int,
    candidates: Sequence[tuple[int, Mapping, LayerTiling, Schedule]],
) -> CompiledLayer:
    """Of mappings with their lower bounds of cycles, the one with the fewest cycles, the first of equals."""
    best: CompiledLayer | None = None
    for bound, mapping, tiling, schedule in sorted(candidates, key=lambda one: one[:2]):
        if best is not None and bound >= best.cycles.cycles:
            break
        layer = CompiledLayer(
            config=config,
            tiling=tiling,
            vectors=vectors,
            mapping=mapping,
            schedule=schedule,
            loading=make_programs(schedule.loading, config.program_depth) if schedule.loading else (),
            programs=make_programs(schedule.instructions, config.program_depth),
        )
        if best is None or layer.cycles.cycles < best.cycles.cycles:
            best = layer
    assert best is not None
    return best
