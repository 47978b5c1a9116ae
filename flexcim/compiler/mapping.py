"""Mappings: the ways in which a layer can lie on an accelerator, among which the cycle model chooses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flexcim.accelerator.instructions import INSTRUCTION_FIELDS, Opcode
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.errors import FlexCiMError
from flexcim.macro.commands import MAX_VECTORS
from flexcim.packed.tiling import LayerTiling

__all__ = ["CompileError", "Mapping", "Round", "candidate_mappings", "layer_rounds", "vector_beats"]

_MAX_WORDS = (1 << INSTRUCTION_FIELDS[Opcode.RUN]["words"][1]) - 1
"""Words that one run can name."""


class CompileError(FlexCiMError):
    """A layer that cannot be put on an accelerator; the message names it and both values."""


@dataclass(frozen=True, order=True, kw_only=True)
class Mapping:
    """How a layer lies on an accelerator.

    Parameters
    ----------
    groups : int
        G of its tiling.
    width : int
        Macros of a run. With M of them, M div ``width`` teams take turns: one team's weights arrive while another one
        computes, also where a macro has only one bank.
    chunk : int
        Most vectors of a run.
    keep : bool
        Whether the K tiles of an output tile stay in their banks while all chunks pass. Otherwise each chunk passes all
        output tiles, and loads them again.
    """

    groups: int
    width: int
    chunk: int
    keep: bool


@dataclass(frozen=True)
class Round:
    """Output tiles that are computed at once.

    Parameters
    ----------
    team : int
        The team that computes them.
    first_tile : int
        The first of these consecutive output tiles.
    macros : tuple of int
        The macro of each.
    """

    team: int
    first_tile: int
    macros: tuple[int, ...]


def layer_rounds(config: AcceleratorConfig, tiling: LayerTiling, width: int) -> list[Round]:
    """A layer's output tiles in rounds, the teams in turn; the last round may be smaller.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    tiling : LayerTiling
        The layer.
    width : int
        Output tiles of a round, which are macros of a run: 1 to ``config.macros``.
    """
    teams = config.macros // width
    rounds = []
    for index, first in enumerate(range(0, tiling.output_tiles, width)):
        start = index % teams * width
        count = min(width, tiling.output_tiles - first)
        rounds.append(Round(index % teams, first, tuple(range(start, start + count))))
    return rounds


def vector_beats(tiling: LayerTiling) -> list[int]:
    """Activation beats of a vector, for each K tile."""
    macro = tiling.config
    return [
        macro.vector_beats(macro.window(tile.pattern, tiling.groups), tile.rows)
        for tile in tiling.tiles[: tiling.k_tiles]
    ]


def candidate_mappings(config: AcceleratorConfig, tiling: LayerTiling, vectors: int, banks: int) -> Iterator[Mapping]:
    """All mappings of a tiling that are worth a comparison.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    tiling : LayerTiling
        The layer at one G.
    vectors : int
        Vectors to multiply.
    banks : int
        Banks of each macro that its tiles may pass through.
    """
    for width in sorted({config.macros // teams for teams in range(1, config.macros + 1)}, reverse=True):
        if width > tiling.output_tiles:
            # Macros of the widest team that have no tile never matter.
            if config.macros // width > 1 or config.macros // tiling.output_tiles > 1:
                continue
            width = tiling.output_tiles
        for chunk in _chunk_sizes(config, tiling, vectors, several_rounds=tiling.output_tiles > width):
            yield Mapping(groups=tiling.groups, width=width, chunk=chunk, keep=False)
            if chunk < vectors and tiling.k_tiles <= banks:
                yield Mapping(groups=tiling.groups, width=width, chunk=chunk, keep=True)


def _chunk_sizes(config: AcceleratorConfig, tiling: LayerTiling, vectors: int, *, several_rounds: bool) -> list[int]:
    """The most vectors that a run can have, and its halves down to those whose beats the activation memory keeps."""
    beats = vector_beats(tiling)
    limit = min(vectors, MAX_VECTORS, _MAX_WORDS * config.activation_bus // (max(beats) * config.activation_beat_bits))
    if tiling.k_tiles > 1:
        limit = min(limit, config.macro.accumulator_depth // tiling.groups)
    kept = config.activation_memory // sum(beats)
    sizes = [limit]
    if several_rounds and kept:
        # Fewer vectors load the tiles more often, but more of their beats find room.
        while (half := sizes[-1] // 2) > kept:
            sizes.append(half)
        if kept < limit:
            sizes.append(kept)
    return sizes
