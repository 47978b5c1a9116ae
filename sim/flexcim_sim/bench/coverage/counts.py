"""Functional coverage: how often the bench has seen each kind of run, of all that the contract allows."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import MacroConfig
from flexcim.errors import FlexCiMError
from flexcim_sim.bench.coverage.model import Cross, coverage_axes, legal_crosses

__all__ = ["BinCount", "Coverage", "CoverageError", "CoverageGapError", "Hole"]


class CoverageError(FlexCiMError):
    """A cross that the contract does not allow, or coverage that cannot be read or added; the message says which."""


class CoverageGapError(CoverageError):
    """Legal crosses that were aimed at for long, and were not hit."""


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
        return cls(axes, dict.fromkeys(legal_crosses(config), 0))

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
            If it is nothing of the kind, or a number of runs is none.
        """
        try:
            axes = {str(axis): tuple(map(str, bins)) for axis, bins in values["axes"].items()}
            runs = {tuple(map(str, labels)): count for *labels, count in values["crosses"]}
        except (AttributeError, KeyError, TypeError, ValueError):
            raise CoverageError("has no axes and crosses as they are written here") from None
        bins = list(axes.values())
        for cross, count in runs.items():
            if len(cross) != len(bins) or any(label not in axis for label, axis in zip(cross, bins, strict=False)):
                raise CoverageError(f"has the cross {', '.join(cross)}, which is not one label of each of its axes")
            # JSON's true and false are integers to Python.
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise CoverageError(
                    f"has {count!r} runs of the cross {', '.join(cross)}, but a number of runs is an integer, 0 or more"
                )
        return cls(axes, runs)
