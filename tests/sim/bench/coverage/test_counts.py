"""Coverage: what is counted, what adds up, and what is told of it."""

from __future__ import annotations

import numpy as np
import pytest

from flexcim.config.macro import MacroConfig
from flexcim_sim.bench.coverage.counts import Coverage, CoverageError, Hole

ONE_CELL = MacroConfig.from_mapping(
    {
        "sub_macros": 1,
        "rows": 1,
        "columns": 1,
        "patterns": ["1:1", "1:4"],
        "activation_port": 1,
        "result_port": 1,
        "accumulator_depth": 1,
    }
)
NAMES = ("pattern", "groups", "bits per cycle", "K tiles", "stall", "bank", "position")


def small(**runs):
    """Coverage of two axes, of which (b, z) is illegal."""
    crosses = {("a", "x"): 0, ("a", "y"): 0, ("a", "z"): 0, ("b", "x"): 0, ("b", "y"): 0}
    return Coverage({"letter": ("a", "b"), "end": ("x", "y", "z")}, crosses | {tuple(it): n for it, n in runs.items()})


def test_nothing_is_covered_at_first():
    coverage = Coverage.of(ONE_CELL)
    assert tuple(coverage.axes) == NAMES
    assert (coverage.hit, coverage.seen) == (0, {})
    assert coverage.missing == list(coverage.runs)


def test_crosses_are_counted():
    coverage = small()
    coverage.add(("a", "x"))
    coverage.add(("a", "x"), 2)
    assert (coverage.legal, coverage.hit, coverage.seen) == (5, 1, {("a", "x"): 3})
    assert ("a", "x") not in coverage.missing


def test_an_illegal_cross_is_an_error_and_does_not_count():
    coverage = small()
    with pytest.raises(CoverageError, match="a run was seen that the contract does not allow: letter b, end z"):
        coverage.add(("b", "z"))
    assert coverage.seen == {}


def test_counts_by_bin():
    coverage = small(ax=2, by=1)
    assert [(it.axis, it.bin, it.legal, it.hit, it.runs) for it in coverage.bins()] == [
        ("letter", "a", 3, 1, 2),
        ("letter", "b", 2, 1, 1),
        ("end", "x", 2, 1, 2),
        ("end", "y", 2, 1, 1),
        ("end", "z", 1, 0, 0),
    ]


def test_coverage_adds_up():
    one, other = small(ax=2), small(ax=1, by=1)
    one.merge(other)
    assert one.seen == {("a", "x"): 3, ("b", "y"): 1}
    assert other.seen == {("a", "x"): 1, ("b", "y"): 1}


def test_coverage_of_other_crosses_is_not_added():
    with pytest.raises(
        CoverageError, match="coverage of 5 legal crosses of letter, end cannot be added to that of 114"
    ):
        small().merge(Coverage.of(ONE_CELL))


def test_holes_are_told_in_few_words():
    assert list(map(str, small().holes(9))) == ["letter a", "letter b"]
    assert small(ax=1, by=1).holes(9) == [
        Hole((("end", "z"),), 1),
        Hole((("letter", "a"), ("end", "y")), 1),
        Hole((("letter", "b"), ("end", "x")), 1),
    ]
    assert len(small(ax=1, by=1).holes(2)) == 2
    assert small(ax=1, ay=1, az=1, bx=1, by=1).holes(9) == []


def test_holes_explain_all_that_is_missing():
    coverage = Coverage.of(ONE_CELL)
    rng = np.random.default_rng(1)
    for cross in coverage.missing:
        if rng.random() < 0.7:
            coverage.add(cross)
    explained = {
        cross
        for hole in coverage.holes(1000)
        for cross in coverage.runs
        if set(hole.labels) <= set(zip(coverage.axes, cross, strict=True))
    }
    assert explained == set(coverage.missing)


def test_coverage_survives_being_written():
    coverage = small(ax=2, by=1)
    again = Coverage.from_mapping(coverage.to_mapping())
    assert (again.axes, again.runs) == (coverage.axes, coverage.runs)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "has no axes and crosses"),
        ({"axes": {"letter": ["a"]}, "crosses": [["a", "many"]]}, "has 'many' runs of the cross a"),
        ({"axes": {"letter": ["a"]}, "crosses": [["b", 1]]}, "has the cross b, which is not one label of each"),
        ({"axes": {"letter": ["a"]}, "crosses": [["a", "a", 1]]}, "has the cross a, a, which is not"),
    ],
)
def test_what_is_no_coverage_is_refused(values, message):
    with pytest.raises(CoverageError, match=message):
        Coverage.from_mapping(values)
