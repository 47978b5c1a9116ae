"""Patterns: reading, dense forms, and what follows from n and m."""

from __future__ import annotations

import pytest

from flexcim.config.pattern import Pattern


@pytest.mark.parametrize("text", ["4:8", " 4 : 8 ", "4:8\n"])
def test_a_pattern_is_read(text):
    assert Pattern.parse(text) == Pattern(4, 8)


def test_what_is_written_is_read_back():
    for pattern in (Pattern(1, 1), Pattern(2, 4), Pattern(4, 11), Pattern(1, 256)):
        assert Pattern.parse(str(pattern)) == pattern


@pytest.mark.parametrize("text", ["1:1", "4:4", "8:8"])
def test_a_pattern_that_keeps_everything_is_dense(text):
    pattern = Pattern.parse(text)
    assert pattern == Pattern(1, 1)
    assert hash(pattern) == hash(Pattern(1, 1))
    assert str(pattern) == "1:1"
    assert pattern.is_dense


@pytest.mark.parametrize(
    ("text", "density", "max_offset"), [("1:1", 1, 0), ("2:4", 0.5, 2), ("4:8", 0.5, 4), ("1:4", 0.25, 3)]
)
def test_what_follows_from_n_and_m(text, density, max_offset):
    pattern = Pattern.parse(text)
    assert pattern.density == density
    assert pattern.sparsity == 1 - density
    assert pattern.max_offset == max_offset
    assert pattern.is_dense == (density == 1)


def test_patterns_are_ordered_by_n_then_m():
    assert sorted([Pattern(4, 8), Pattern(1, 4), Pattern(1, 2)]) == [Pattern(1, 2), Pattern(1, 4), Pattern(4, 8)]


@pytest.mark.parametrize("text", ["", "4", "4:", ":8", "4-8", "4:8:2", "-1:4", "a:b", "4.0:8", 48, None])
def test_what_is_no_pattern_is_refused(text):
    with pytest.raises(ValueError, match="a pattern must be written n:m, such as 4:8, not"):
        Pattern.parse(text)


@pytest.mark.parametrize(("n", "m"), [(0, 4), (5, 4), (0, 0), (-1, 4), (-2, -1)])
def test_an_impossible_pattern_is_refused(n, m):
    with pytest.raises(ValueError, match=f"pattern {n}:{m} must keep between 1 and m = {m} .* not n = {n}"):
        Pattern(n, m)


@pytest.mark.parametrize(("n", "m", "name"), [(2.0, 4, "n"), (2, "4", "m"), (True, 4, "n"), (2, None, "m")])
def test_a_count_of_the_wrong_kind_is_refused(n, m, name):
    with pytest.raises(TypeError, match=f"a pattern's {name} must be an integer, not"):
        Pattern(n, m)
