"""Functional coverage: which kinds of runs the bench has seen, of all that the contract allows.

A run is told by its labels on seven axes (eight for an accelerator): pattern, groups, bits per cycle, K tiles of its
accumulation, what stalled meanwhile, bank, and its place among the K tiles. A *cross* is one label of each axis. The
legal crosses are not written down: the runs that the contract allows are enumerated, and labelled by the same
functions that label the runs that were seen.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from flexcim.accelerator_config import AcceleratorConfig
from flexcim.commands import Run
from flexcim.config import MacroConfig
from flexcim.errors import FlexCiMError

__all__ = [
    "Axis",
    "BinCount",
    "Coverage",
    "CoverageError",
    "CoverageGapError",
    "Cross",
    "Hole",
    "SeenRun",
    "coverage_axes",
    "data_streams",
    "legal_runs",
]

Cross: TypeAlias = tuple[str, ...]
"""A label of each axis, in the order of the axes."""

SOURCES = ("stream", "store", "replay")
"""Where an accelerator's run has its activations from; ``store`` is a stream that is kept for others to replay."""

_MANY_K_TILES = 3
"""From so many K tiles on, an accumulation has a first, a middle and a last one, and no more kinds come with more."""


class CoverageError(FlexCiMError):
    """A cross that the contract does not allow, or coverage that cannot be read or added; the message says which."""


class CoverageGapError(CoverageError):
    """Legal crosses that were aimed at for long, and were not hit."""


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


def data_streams(config: MacroConfig) -> tuple[str, ...]:
    """The streams of a macro that carry data, whose pauses are told apart."""
    return ("weights", "activations", "results", *(("constants",) if config.requantizer else ()))


def coverage_axes(config: MacroConfig | AcceleratorConfig) -> tuple[Axis, ...]:
    """The axes of a configuration. That of the bits per cycle has one bin; it tells configurations apart."""
    macro = config.macro if isinstance(config, AcceleratorConfig) else config
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


def legal_runs(config: MacroConfig | AcceleratorConfig) -> Iterator[SeenRun]:
    """A run of each kind that the contract allows (docs/architecture.md, sections 3.2 and 7.2)."""
    macro = config.macro if isinstance(config, AcceleratorConfig) else config
    sources = SOURCES if isinstance(config, AcceleratorConfig) else SOURCES[:1]
    places = [(tile, count) for count in range(1, _MANY_K_TILES + 1) for tile in range(count)]
    for (pattern, groups), bank, (k_tile, k_tiles), source in itertools.product(
        macro.modes, range(macro.banks), places, sources
    ):
        if k_tiles > 1 and groups > macro.accumulator_depth:
            continue  # not even one vector has a place for its sums
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
    macro = config.macro if isinstance(config, AcceleratorConfig) else config
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
def _legal_crosses(config: MacroConfig | AcceleratorConfig) -> tuple[Cross, ...]:
    axes = coverage_axes(config)
    order = [{name: place for place, name in enumerate(axis.bins)} for axis in axes]
    crosses = {tuple(axis.label(run) for axis in axes) for run in legal_runs(config)}
    return tuple(sorted(crosses, key=lambda cross: [places[bin_] for places, bin_ in zip(order, cross, strict=True)]))


@dataclass(frozen=True)
class BinCount:
    """How much of one bin is covered.

    Parameters
    ----------
    axis, bin : str
        The bin.
    legal, hit : int
        Legal crosses in it, and how many of them were seen.
    runs : int
        Runs that were seen in it.
    """

    axis: str
    bin: str
    legal: int
    hit: int
    runs: int


@dataclass(frozen=True)
class Hole:
    """Crosses none of which was seen, and what they have in common.

    Parameters
    ----------
    labels : tuple of (str, str)
        Axes and their bins.
    crosses : int
        Legal crosses with these labels.
    """

    labels: tuple[tuple[str, str], ...]
    crosses: int

    def __str__(self) -> str:
        return ", ".join(f"{axis} {bin_}" for axis, bin_ in self.labels)


class Coverage:
    """The legal crosses of a configuration, and how often each was seen.

    Parameters
    ----------
    axes : mapping of str to tuple of str
        The bins of each axis.
    runs : mapping of Cross to int
        The legal crosses, and the runs that were seen of each.
    """

    def __init__(self, axes: Mapping[str, tuple[str, ...]], runs: Mapping[Cross, int]) -> None:
        self.axes = dict(axes)
        self.runs = dict(runs)

    @classmethod
    def of(cls, config: MacroConfig | AcceleratorConfig) -> Coverage:
        """The coverage of a configuration of which nothing was seen yet."""
        axes = {axis.name: axis.bins for axis in coverage_axes(config)}
        return cls(axes, dict.fromkeys(_legal_crosses(config), 0))

    def add(self, cross: Cross, runs: int = 1) -> None:
        """Count runs of one cross.

        Raises
        ------
        CoverageError
            If the contract does not allow such runs.
        """
        if cross not in self.runs:
            raise CoverageError(f"a run was seen that the contract does not allow: {self._named(cross)}")
        self.runs[cross] += runs

    def merge(self, other: Coverage) -> None:
        """Count what another coverage of the same axes and legal crosses counted, too.

        Raises
        ------
        CoverageError
            If they are of other axes or crosses.
        """
        if (self.axes, self.runs.keys()) != (other.axes, other.runs.keys()):
            raise CoverageError(
                f"coverage of {len(self.runs)} legal crosses of {', '.join(self.axes)} cannot be added to that of "
                f"{len(other.runs)} others of {', '.join(other.axes)}"
            )
        for cross, runs in other.runs.items():
            self.runs[cross] += runs

    @property
    def legal(self) -> int:
        """How many crosses are legal."""
        return len(self.runs)

    @property
    def hit(self) -> int:
        """How many legal crosses were seen."""
        return sum(runs > 0 for runs in self.runs.values())

    @property
    def seen(self) -> dict[Cross, int]:
        """The crosses that were seen, and how often."""
        return {cross: runs for cross, runs in self.runs.items() if runs}

    @property
    def missing(self) -> list[Cross]:
        """The legal crosses that were not seen."""
        return [cross for cross, runs in self.runs.items() if not runs]

    def bins(self) -> list[BinCount]:
        """What is covered of each bin."""
        counts = []
        for place, (axis, bins) in enumerate(self.axes.items()):
            runs: dict[str, list[int]] = {bin_: [] for bin_ in bins}
            for cross, count in self.runs.items():
                runs[cross[place]].append(count)
            counts += [
                BinCount(axis, bin_, len(seen), sum(count > 0 for count in seen), sum(seen))
                for bin_, seen in runs.items()
            ]
        return counts

    def holes(self, most: int) -> list[Hole]:
        """What was not seen, in few words: combinations of few labels first, and of these always the one that tells of
        most crosses which those before it do not.

        Parameters
        ----------
        most : int
            How many to tell at most.
        """
        names = list(self.axes)
        missing, seen = self.missing, list(self.seen)
        untold = set(missing)
        holes: list[Hole] = []
        for size in range(1, len(names) + 1):
            if not untold or len(holes) == most:
                break
            found: list[tuple[Hole, list[Cross]]] = []
            for places in itertools.combinations(range(len(names)), size):
                hit = {tuple(cross[place] for place in places) for cross in seen}
                parts: dict[Cross, list[Cross]] = defaultdict(list)
                for cross in missing:
                    parts[tuple(cross[place] for place in places)].append(cross)
                for labels in (labels for labels in parts if labels not in hit):
                    pairs = tuple((names[place], label) for place, label in zip(places, labels, strict=True))
                    found.append((Hole(pairs, len(parts[labels])), parts[labels]))
            while found and len(holes) < most:
                hole, crosses = max(found, key=lambda pair: len(untold.intersection(pair[1])))
                if untold.isdisjoint(crosses):
                    break
                holes.append(hole)
                untold.difference_update(crosses)
        return holes

    def _named(self, cross: Cross) -> str:
        return ", ".join(f"{axis} {bin_}" for axis, bin_ in zip(self.axes, cross, strict=True))

    def to_mapping(self) -> dict[str, Any]:
        """Axes, and every legal cross with its number of runs, as plain values; ``from_mapping`` reads them back."""
        axes = {axis: list(bins) for axis, bins in self.axes.items()}
        return {"axes": axes, "crosses": [[*cross, runs] for cross, runs in self.runs.items()]}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Coverage:
        """Read what ``to_mapping`` gave.

        Raises
        ------
        CoverageError
            If it is nothing of the kind.
        """
        try:
            axes = {str(axis): tuple(map(str, bins)) for axis, bins in values["axes"].items()}
            runs = {tuple(map(str, labels)): int(count) for *labels, count in values["crosses"]}
        except (AttributeError, KeyError, TypeError, ValueError):
            raise CoverageError("has no axes and crosses as they are written here") from None
        bins = list(axes.values())
        for cross in runs:
            if len(cross) != len(bins) or any(label not in axis for label, axis in zip(cross, bins, strict=False)):
                raise CoverageError(f"has the cross {', '.join(cross)}, which is not one label of each of its axes")
        return cls(axes, runs)
