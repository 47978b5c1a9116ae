"""OWL's choice: more is kept where the outliers are."""

from __future__ import annotations

import pytest

from flexcim.config.macro import PRESETS
from flexcim.config.pattern import Pattern
from flexcim_flow.choice.budgets import SparsityBudget, pose
from flexcim_flow.choice.owl import select_owl
from flexcim_flow.choice.problem import SelectionError
from tests.support.choices import unit

pytestmark = pytest.mark.torch


def test_densities_span_what_the_authors_span():
    # Their lambda is 0.08 (arXiv 2310.05175): between the units with the fewest and the most outliers lie 16 points of
    # density, around the target.
    problem = pose([unit((8, 80))] * 3, [Pattern(n, 8) for n in range(1, 8)], SparsityBudget(0.5))
    found = select_owl(problem, [0.01, 0.02, 0.03])
    assert [choice.reason for choice in found.choices] == [
        "1.00% outliers ask for a density of 0.420",
        "2.00% outliers ask for a density of 0.500",
        "3.00% outliers ask for a density of 0.580",
    ]
    # At 4:8 and its neighbours, 0.08 is more than half of a step of an eighth.
    assert found.patterns == (Pattern(3, 8), Pattern(4, 8), Pattern(5, 8))
    alike = select_owl(problem, [0.02, 0.02, 0.02])
    assert alike.patterns == (Pattern(4, 8),) * 3


def test_owl_keeps_more_where_the_outliers_are():
    problem = pose([unit((8, 80))] * 3, PRESETS["wide"].patterns, SparsityBudget(0.6))
    found = select_owl(problem, [0.01, 0.02, 0.03], m=8)
    assert {pattern.m for pattern in found.patterns} <= {1, 8}
    assert [pattern.density for pattern in found.patterns] == sorted(pattern.density for pattern in found.patterns)
    assert found.patterns[0] != found.patterns[2]
    assert found.used <= problem.limit
    assert found.choices[0].reason.startswith("1.00% outliers ask for a density of 0.3")


def test_owl_needs_patterns_of_one_m():
    problem = pose([unit((8, 80))], [Pattern(4, 5), Pattern(2, 8)], SparsityBudget(0.6))
    assert select_owl(problem, [0.1]).patterns == (Pattern(2, 8),)
    with pytest.raises(
        SelectionError, match="OWL needs patterns of one m that reach the budget, but the menu is 4:5 2:8"
    ):
        select_owl(problem, [0.1], m=5)
