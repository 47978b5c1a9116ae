"""One pattern for all, and the mixes of two."""

from __future__ import annotations

import numpy as np
import pytest

from flexcim.config.macro import PRESETS
from flexcim.config.pattern import Pattern
from flexcim_flow.choice.budgets import SparsityBudget, pose
from flexcim_flow.choice.uniform import select_uniform, uniform_mixes
from tests.support.choices import random_units, unit

pytestmark = pytest.mark.torch

DENSE, HALF, QUARTER = Pattern(1, 1), Pattern(2, 4), Pattern(2, 8)
WIDE = PRESETS["wide"].patterns


def test_one_pattern_for_all_where_one_meets_the_target():
    problem = pose([unit((8, 80))] * 3, WIDE, SparsityBudget(0.5))
    assert set(select_uniform(problem).patterns) == {Pattern(4, 8)}
    answers = {mix.patterns[0] for mix in uniform_mixes(problem)}
    assert answers == {Pattern(1, 2), Pattern(2, 4), Pattern(4, 8)}
    assert select_uniform(pose([unit((8, 80))], WIDE, SparsityBudget(0))).patterns == (DENSE,)


def test_between_two_densities_the_first_units_are_sparser():
    problem = pose([unit((8, 40))] * 4, [DENSE, HALF, QUARTER], SparsityBudget(0.55))
    found = select_uniform(problem)
    assert [str(pattern) for pattern in found.patterns] == ["2:8", "2:4", "2:4", "2:4"]
    assert found.choices[0].reason == "2:8 for the first 1 of 4, 2:4 for the others"


@pytest.mark.parametrize("seed", range(10))
def test_mixes_keep_the_budget_and_waste_less_than_one_unit(seed):
    rng = np.random.default_rng(seed)
    problem = pose(random_units(rng, 6), WIDE, SparsityBudget(float(rng.random() * 0.7)))
    for mix in uniform_mixes(problem):
        assert mix.used <= problem.limit
        sparser = list(map(problem.patterns.index, mix.patterns))
        spared = (problem.resources - problem.resources[np.arange(6), sparser][:, None]).max()
        assert problem.limit - mix.used <= spared
