"""What a selector is asked: units, and the patterns that are worth it."""

from __future__ import annotations

import pytest

from flexcim.config.macro import PRESETS
from flexcim.config.pattern import Pattern
from flexcim_flow.choice.budgets import SparsityBudget, pose
from flexcim_flow.choice.problem import Problem, columns_of, undominated, units_of
from tests.support.choices import unit

pytestmark = pytest.mark.torch

WIDE = PRESETS["wide"].patterns


def test_units_are_layers_or_blocks():
    blocks = [("a", [("a.x", (2, 4)), ("a.y", (3, 4))]), ("empty", []), ("b", [("b.x", (5, 6))])]
    assert [one.name for one in units_of(blocks, by_block=False)] == ["a.x", "a.y", "b.x"]
    by_block = units_of(blocks, by_block=True)
    assert [(one.name, one.layers, one.weights) for one in by_block] == [("a", ("a.x", "a.y"), 20), ("b", ("b.x",), 30)]


def test_a_restricted_problem_counts_the_same():
    problem = pose([unit((8, 80))] * 2, WIDE, SparsityBudget(0.5))
    some = problem.restricted([3, 0])
    assert isinstance(some, Problem)
    assert some.patterns == (WIDE[3], WIDE[0])
    assert some.used([0, 1]) == problem.used([3, 0])


def test_patterns_that_others_contain_are_not_measured():
    menu = PRESETS["flexcim"].patterns
    whole = pose(units_of([("all", [("a", (8, 80))])], by_block=False), menu, SparsityBudget(0.5))
    left_out = set(menu) - {menu[column] for column in undominated(whole)}
    assert left_out == {Pattern(1, 2), Pattern(2, 4), Pattern(1, 4)}
    # The last block of 4 inputs keeps 1 at 1:4 and 2 at 2:8.
    rest = pose(units_of([("all", [("a", (8, 44))])], by_block=False), menu, SparsityBudget(0.5))
    assert Pattern(1, 4) in {menu[column] for column in undominated(rest)}


def test_a_pattern_that_was_left_out_stands_for_the_one_that_contains_it():
    problem = pose([unit((8, 80))] * 3, PRESETS["flexcim"].patterns, SparsityBudget(0.5))
    narrow = problem.restricted(undominated(problem))
    found = columns_of(narrow, [Pattern(2, 4), Pattern(1, 4), Pattern(4, 8)])
    assert [narrow.patterns[column] for column in found] == [Pattern(4, 8), Pattern(2, 8), Pattern(4, 8)]
