"""The search in the pruned model, against exhaustive search, and the bench that puts models under patterns."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from flexcim.config import PRESETS
from flexcim.pattern import Pattern
from flow.blocks import find_blocks
from flow.budgets import SparsityBudget, pose
from flow.costs import LossModel
from flow.divergence import Reference, divergence
from flow.evaluation import evaluate
from flow.refinement import Bench, descend, sequence_loss
from flow.selectors import Problem, Unit, solve_knapsack
from tests.tiny_models import tiny_llama

SAMPLES = torch.randint(256, (5, 16), generator=torch.Generator().manual_seed(0))


def random_case(seed: int) -> tuple[Problem, LossModel]:
    """A small problem, and a loss whose quadratic part has interactions."""
    rng = np.random.default_rng(seed)
    units = [Unit(str(index), (str(index),), ((8, int(rng.integers(8, 60))),)) for index in range(4)]
    patterns = (*PRESETS["fixed-2-4"].patterns, Pattern(2, 8), Pattern(4, 10))
    problem = pose(units, patterns, SparsityBudget(float(0.3 + 0.3 * rng.random())))
    along = rng.normal(size=(10, 4 * len(patterns)))
    curvature = (along.T @ along / 20).reshape(4, len(patterns), 4, len(patterns))
    return problem, LossModel(0.1 * rng.normal(size=(4, len(patterns))), curvature)


@pytest.mark.parametrize("seed", range(20))
def test_the_descent_ends_where_no_change_of_two_units_helps(seed):
    problem, around = random_case(seed)
    start = solve_knapsack(around.costs, problem.resources, problem.limit)
    path = descend(problem, around, start)
    found = path[-1]
    rises = [around.rise(columns) for columns in path]
    assert path[0] is start
    assert all(after < before for before, after in itertools.pairwise(rises))
    assert problem.used(found) <= problem.limit
    for other in itertools.product(range(len(problem.patterns)), repeat=4):
        columns = np.array(other)
        if (columns != found).sum() <= 2 and problem.used(columns) <= problem.limit:
            assert around.rise(columns) >= around.rise(found) - 1e-9


def test_the_descent_is_mostly_the_best_there_is():
    best = 0
    for seed in range(20):
        problem, around = random_case(seed)
        found = descend(problem, around, solve_knapsack(around.costs, problem.resources, problem.limit))[-1]
        all_columns = map(np.array, itertools.product(range(len(problem.patterns)), repeat=4))
        optimum = min(around.rise(columns) for columns in all_columns if problem.used(columns) <= problem.limit)
        best += around.rise(found) <= optimum + 1e-9
    assert best >= 14


@pytest.fixture
def bench():
    model = tiny_llama()
    units = [block.layers for block in find_blocks(model)]
    treated = {layer.name: torch.stack([layer.weight, layer.weight * 0.5]) for unit in units for layer in unit}
    reference = Reference.of(model, SAMPLES)
    return Bench(model, units, treated, reference, reference)


def test_a_bench_puts_units_under_patterns_and_back(bench):
    before = {name: tensor.clone() for name, tensor in bench.model.state_dict().items()}
    assert bench.divergence(np.array([0, 0, 0])) == pytest.approx(0, abs=1e-6)
    bench.put(np.array([0, 1, 0]))
    for unit, factor in zip(bench.units, (1, 0.5, 1), strict=True):
        assert all(torch.equal(layer.weight, before[f"{layer.name}.weight"] * factor) for layer in unit)
    assert divergence(bench.model, bench.guard) == bench.divergence(np.array([0, 1, 0])) > 0
    bench.restore()
    assert all(torch.equal(tensor, before[name]) for name, tensor in bench.model.state_dict().items())


def test_a_change_to_what_is_there_costs_nothing(bench):
    columns = np.array([1, 0, 1])
    around = bench.around(columns, 0)
    assert not around.costs[np.arange(3), columns].any()
    assert around.costs[np.arange(3), 1 - columns].all()
    assert not bench.around_dense(0).costs[:, 0].any()
    assert bench.restricted([1]).treated["model.layers.0.mlp.up_proj"].shape[0] == 1


def test_the_loss_is_that_of_the_evaluation():
    model = tiny_llama()
    tokens = SAMPLES[0]
    assert sequence_loss(model, tokens[None]) == pytest.approx(
        np.log(evaluate(model, tokens, 16, 16).perplexity), rel=1e-5
    )
