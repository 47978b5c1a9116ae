"""The loop that brings coverage to its end, on coverage that is made by hand."""

from __future__ import annotations

import asyncio
import json

import pytest

from flexcim_sim.bench.coverage.counts import Coverage, CoverageGapError
from flexcim_sim.bench.played.closure import close_coverage
from flexcim_sim.bench.played.job import REPORT_FILE


@pytest.fixture
def coverage(monkeypatch, tmp_path) -> Coverage:
    """Four crosses; nothing was reported before."""
    monkeypatch.chdir(tmp_path)
    return Coverage({"letter": ("a", "b"), "end": ("x", "y")}, {(it[0], it[1]): 0 for it in ("ax", "ay", "bx", "by")})


def test_it_plays_until_nothing_is_missing(coverage):
    asked = []

    async def play(missing):
        asked.append(list(missing))
        if len(asked) % 3 == 0:  # what is aimed at is not hit each time
            coverage.add(missing[-1])

    asyncio.run(close_coverage(coverage, play))
    assert coverage.missing == []
    assert len(asked) == 12
    assert asked[-1] == [("a", "x")]


def test_what_others_have_hit_is_not_aimed_at_and_not_counted_twice(coverage, tmp_path):
    line = {"test": "programs", "results": 1, "cycles": 1, "covered": [["a", "x", 3], ["b", "y", 1]]}
    (tmp_path / REPORT_FILE).write_text(json.dumps(line) + "\n")

    async def play(missing):
        coverage.add(missing[0])

    asyncio.run(close_coverage(coverage, play))
    assert coverage.seen == {("a", "y"): 1, ("b", "x"): 1}


@pytest.mark.parametrize("earlier", [[], [["a", "x", 3]]])
def test_what_cannot_be_hit_is_told(earlier, coverage, tmp_path):
    (tmp_path / REPORT_FILE).write_text(json.dumps({"test": "programs", "covered": earlier}) + "\n")

    async def play(missing):
        coverage.add(("a", "x"))

    message = r"3 of 4 legal crosses are still not hit after \d+ programs that aimed at them: letter b; end y"
    with pytest.raises(CoverageGapError, match=message):
        asyncio.run(close_coverage(coverage, play))
    assert coverage.runs["a", "x"] == 60 + (not earlier)
