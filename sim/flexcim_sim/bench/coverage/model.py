"""What functional coverage tells apart: the axes of a configuration, and the crosses that the contract allows.

A run is told by its labels on seven axes (eight for an accelerator): pattern, groups, bits per cycle, K tiles of its
accumulation, what stalled meanwhile, bank, and its position among the K tiles. A *cross* is one label of each axis. The
legal crosses are not written down: the runs that the contract allows are enumerated, and labelled by the same
functions that label the runs that were seen.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import MacroConfig
from flexcim.macro.commands import Run

__all__ = [
    "SOURCES",
    "Axis",
    "Cross",
    "SeenRun",
    "coverage_axes",
    "cross_of",
    "data_streams",
    "legal_crosses",
    "legal_runs",
    "macro_of",
]

Cross: TypeAlias = tuple[str, ...]
"""A label of each axis, in the order of the axes."""

SOURCES = ("stream", "store", "replay")
"""Where an accelerator's run has its activations from; ``store`` is a stream that is kept for others to replay."""

_MANY_K_TILES = 3
"""From so many K tiles on, an accumulation has a first, a middle and a last one, and no more kinds come with more."""


@dataclass(frozen=True, kw_only=True)
class SeenRun:
    """A run that was carried out.

    Parameters
    ----------
    command : Run
        The command that was taken.
    k_tile, k_tiles : int
        Its place among the K tiles of its accumulation, and how many these are.
    stalled : frozenset of str
        The streams that paused while it was under way.
    source : str
        One of `SOURCES`; a macro's runs always have ``stream``.
    """

    command: Run
    k_tile: int
    k_tiles: int
    stalled: frozenset[str]
    source: str = "stream"

    @property
    def position(self) -> str:
        """``only``, ``first``, ``middle`` or ``last`` of its K tiles."""
        if self.command.first_k:
            return "only" if self.command.last_k else "first"
        return "last" if self.command.last_k else "middle"

    @property
    def stall(self) -> str:
        """The stream that paused, ``none`` or ``several``."""
        return next(iter(self.stalled), "none") if len(self.stalled) < 2 else "several"


@dataclass(frozen=True)
class Axis:
    """A property of runs.

    Parameters
    ----------
    name : str
        The property.
    bins : tuple of str
        Its labels.
    label : callable
        The label of a run.
    """

    name: str
    bins: tuple[str, ...]
    label: Callable[[SeenRun], str]


def macro_of(config: MacroConfig | AcceleratorConfig) -> MacroConfig:
    """The macro, or what all of an accelerator's macros are."""
    return config.macro if isinstance(config, AcceleratorConfig) else config


def data_streams(config: MacroConfig) -> tuple[str, ...]:
    """The streams of a macro that carry data, whose pauses are told apart."""
    return ("weights", "activations", "results", *(("constants",) if config.requantizer else ()))


def coverage_axes(config: MacroConfig | AcceleratorConfig) -> tuple[Axis, ...]:
    """The axes of a configuration. That of the bits per cycle has one bin; it tells configurations apart."""
    macro = macro_of(config)
    bits = str(macro.bits_per_cycle)
    groups = tuple(str(count) for count in macro.group_counts if any(count == it for _, it in macro.modes))
    counts = [str(count) for count in range(1, _MANY_K_TILES)]
    axes = (
        Axis("pattern", tuple(map(str, macro.patterns)), lambda run: str(run.command.pattern)),
        Axis("groups", groups, lambda run: str(run.command.groups)),
        Axis("bits per cycle", (bits,), lambda run: bits),
        Axis(
            "K tiles",
            (*counts, f"{_MANY_K_TILES}+"),
            lambda run: str(run.k_tiles) if run.k_tiles < _MANY_K_TILES else f"{_MANY_K_TILES}+",
        ),
        Axis("stall", ("none", *data_streams(macro), "several"), lambda run: run.stall),
        Axis("bank", tuple(map(str, range(macro.banks))), lambda run: str(run.command.bank)),
        Axis("position", ("only", "first", "middle", "last"), lambda run: run.position),
    )
    if isinstance(config, AcceleratorConfig):
        return (*axes, Axis("source", SOURCES, lambda run: run.source))
    return axes


def cross_of(axes: Iterable[Axis], run: SeenRun) -> Cross:
    """The labels of a run."""
    return tuple(axis.label(run) for axis in axes)


def legal_runs(config: MacroConfig | AcceleratorConfig) -> Iterator[SeenRun]:
    """A run of each kind that the contract allows (docs/architecture.md, sections 3.2 and 7.2)."""
    macro = macro_of(config)
    sources = SOURCES if isinstance(config, AcceleratorConfig) else SOURCES[:1]
    places = [(tile, count) for count in range(1, _MANY_K_TILES + 1) for tile in range(count)]
    for (pattern, groups), bank, (k_tile, k_tiles), source in itertools.product(
        macro.modes, range(macro.banks), places, sources
    ):
        command = Run(
            bank=bank,
            pattern=pattern,
            groups=groups,
            rows=1,
            vectors=1,
            first_k=k_tile == 0,
            last_k=k_tile == k_tiles - 1,
        )
        if source != "stream" and not _fits_memory(config, command):
            continue
        for stalled in _stalls(config, command):
            yield SeenRun(command=command, k_tile=k_tile, k_tiles=k_tiles, stalled=stalled, source=source)


def _fits_memory(config: MacroConfig | AcceleratorConfig, command: Run) -> bool:
    """Whether the activation memory holds the beats of the smallest run of this kind."""
    if isinstance(config, MacroConfig):
        return False
    window = config.macro.window(command.pattern, command.groups)
    return config.macro.vector_beats(window, command.rows) <= config.activation_memory


def _stalls(config: MacroConfig | AcceleratorConfig, command: Run) -> Iterator[frozenset[str]]:
    """The sets of streams that can pause while a run of this kind is under way."""
    macro = macro_of(config)
    streams = data_streams(macro)
    # A macro's run without results is under way from its first to its last beat: of one beat, nothing can be missing
    # in between. An accelerator fetches ahead, so there the words of later runs can.
    beats = macro.vector_beats(macro.window(command.pattern, command.groups), macro.rows)
    most_beats = beats * (macro.accumulator_depth // command.groups)
    if isinstance(config, MacroConfig) and not command.last_k and most_beats < 2:
        streams = tuple(stream for stream in streams if stream != "activations")
    for count in range(3):
        yield from map(frozenset, itertools.combinations(streams, count))


@functools.lru_cache(maxsize=8)
def legal_crosses(config: MacroConfig | AcceleratorConfig) -> tuple[Cross, ...]:
    """The labels of all that the contract allows, in the order of the axes' bins."""
    axes = coverage_axes(config)
    legal = {cross_of(axes, run) for run in legal_runs(config)}
    return tuple(cross for cross in itertools.product(*(axis.bins for axis in axes)) if cross in legal)
