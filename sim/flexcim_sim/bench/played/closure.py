"""The loop of the tests that bring the coverage to its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from flexcim_sim.bench.coverage.counts import Coverage, CoverageGapError
from flexcim_sim.bench.coverage.model import Cross
from flexcim_sim.bench.played.job import reported

__all__ = ["close_coverage"]

_PATIENCE = 60
"""Programs in a row that may hit nothing new."""


async def close_coverage(coverage: Coverage, play: Callable[[Sequence[Cross]], Awaitable[None]]) -> None:
    """Play until every legal cross was seen, by the tests before this one or now.

    Parameters
    ----------
    coverage : Coverage
        What this test sees.
    play : callable
        Plays a program that aims at some of the crosses that it is given.

    Raises
    ------
    CoverageGapError
        If no more crosses are hit for many programs; the message says which are missing.
    """
    before = {tuple(cross) for line in reported() for *cross, _ in line["covered"]}
    fewest, fruitless = coverage.legal + 1, 0
    while missing := [cross for cross in coverage.missing if cross not in before]:
        fruitless = 0 if len(missing) < fewest else fruitless + 1
        fewest = len(missing)
        if fruitless == _PATIENCE:
            together = Coverage(coverage.axes, {it: runs + (it in before) for it, runs in coverage.runs.items()})
            raise CoverageGapError(
                f"{len(missing)} of {coverage.legal} legal crosses are still not hit after {_PATIENCE} programs that "
                f"aimed at them: {'; '.join(map(str, together.holes(5)))}"
            )
        await play(missing)
