"""The steps in the pruned model, against exhaustive search, and the bench that puts models under patterns."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from flexcim.config.macro import PRESETS
from flexcim.config.pattern import Pattern
from flexcim_flow.choice.budgets import SparsityBudget, pose
from flexcim_flow.choice.costs import LossModel
from flexcim_flow.choice.divergence import Reference, divergence
from flexcim_flow.choice.knapsack import solve_knapsack
from flexcim_flow.choice.problem import Unit
from flexcim_flow.choice.refinement import Bench, refine, sequence_loss
from flexcim_flow.measure.evaluation import evaluate
from flexcim_flow.model.blocks import find_blocks
from tests.support.tiny_models import tiny_llama

pytestmark = pytest.mark.torch

SAMPLES = torch.randint(256, (5, 16), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def bench():
    model = tiny_llama()
    units = [block.layers for block in find_blocks(model)]
    treated = {layer.name: torch.stack([layer.weight, layer.weight * 0.5]) for unit in units for layer in unit}
    reference = Reference.of(model, SAMPLES)
    return Bench(model, units, treated, reference)


def test_a_bench_puts_units_under_patterns_and_back(bench):
    before = {name: tensor.clone() for name, tensor in bench.model.state_dict().items()}
    assert bench.divergence(np.array([0, 0, 0])) == pytest.approx(0, abs=1e-6)
    bench.put(np.array([0, 1, 0]))
    for unit, factor in zip(bench.units, (1, 0.5, 1), strict=True):
        assert all(torch.equal(layer.weight, before[f"{layer.name}.weight"] * factor) for layer in unit)
    assert divergence(bench.model, bench.guard) == bench.divergence(np.array([0, 1, 0])) > 0
    bench.restore()
    assert all(torch.equal(tensor, before[name]) for name, tensor in bench.model.state_dict().items())


def test_the_slope_is_how_fast_the_divergence_grows(bench):
    # Weights that differ a little, so that a straight line is all there is.
    for name, treated in bench.treated.items():
        noise = torch.randn(treated[1].shape, generator=torch.Generator().manual_seed(len(name)))
        bench.treated[name][1] = treated[1] + 1e-3 * noise
    there = np.array([1, 0, 1])
    slope = bench.slope(there)
    bench.model.double()
    for unit in range(3):
        moved = there.copy()
        moved[unit] = 1 - there[unit]
        rises = []
        for share in (1e-3, -1e-3):
            bench.put(there)
            for layer in bench.units[unit]:
                step = bench.treated[layer.name][moved[unit]] - bench.treated[layer.name][there[unit]]
                layer.weight.add_(share * step)
            rises.append(divergence(bench.model, bench.guard))
        expected = (rises[0] - rises[1]) / 2e-3
        assert slope[unit, moved[unit]] - slope[unit, there[unit]] == pytest.approx(expected, rel=0.02, abs=1e-7)
    assert bench.restricted([1]).treated["model.layers.0.mlp.up_proj"].shape[0] == 1


class Valley(Bench):
    """Stands in for a bench: a divergence that is known, and its slope or another one."""

    def __init__(self, slope: np.ndarray | None = None) -> None:
        self.slopes = 0
        self.other = slope

    def divergence(self, columns):
        return float((columns.sum() - 5) ** 2 + 0.1 * columns.sum())

    def slope(self, columns):
        self.slopes += 1
        if self.other is not None:
            return self.other
        return np.outer(np.ones(4), np.arange(4)) * (2 * (columns.sum() - 5) + 0.1)


class Hill(Valley):
    """Nothing is an improvement."""

    def divergence(self, columns):
        return float(columns.sum())


def test_refinement_steps_down_within_the_budget():
    units = [Unit(str(index), (str(index),), ((8, 8),)) for index in range(4)]
    patterns = tuple(map(Pattern.parse, ("1:4", "1:2", "3:4", "1:1")))
    problem = pose(units, patterns, SparsityBudget(0.3))
    steepness = np.array([[0, 0, 0, 0], [0, 1, 2, 3], [0, 2, 4, 6], [0, 3, 6, 9]], dtype=float)
    loss = LossModel(np.stack([steepness * factor for factor in (0.2, 1.0, 1.5, 2.0)]))
    bench = Valley()
    start = np.zeros(4, dtype=np.int64)
    steps = list(refine(problem, bench, loss, start, 6))
    assert all(problem.used(columns) <= problem.limit for columns in steps)
    assert min(map(bench.divergence, steps)) == bench.divergence(np.array([3, 2, 0, 0])) < bench.divergence(start)
    assert len({tuple(columns) for columns in [start, *steps]}) == len(steps) + 1
    assert bench.slopes == 2
    assert not list(refine(problem, bench, loss, start, 0))


def test_a_step_that_goes_too_far_is_tried_again_with_more_caution():
    units = [Unit(str(index), (str(index),), ((8, 8),)) for index in range(4)]
    patterns = tuple(map(Pattern.parse, ("1:4", "1:2", "3:4", "1:1")))
    problem = pose(units, patterns, SparsityBudget(0.0))
    # The slope asks for all it can get; only what the caution makes of the curvature holds it back.
    distance = np.arange(4, dtype=float)
    loss = LossModel(np.stack([np.outer(distance, distance) * factor for factor in (1.0, 2.0, 4.0, 8.0)]))
    bench = Hill(-40.0 * np.outer(np.ones(4), distance))
    steps = list(refine(problem, bench, loss, np.zeros(4, dtype=np.int64), 8))
    assert bench.slopes == 1
    sums = [int(columns.sum()) for columns in steps]
    assert sums[0] == 7 > sums[1]
    assert sums == sorted(sums, reverse=True)
    assert len(set(map(tuple, steps))) == len(steps) < 8  # then nothing is left to try


def test_each_step_is_the_exact_optimum_around_the_best():
    rng = np.random.default_rng(0)
    units = [Unit(str(index), (str(index),), ((8, int(rng.integers(8, 60))),)) for index in range(4)]
    patterns = (*PRESETS["fixed-2-4"].patterns, Pattern(2, 8), Pattern(4, 10))
    problem = pose(units, patterns, SparsityBudget(0.5))
    along = rng.normal(size=(4, 10, len(patterns)))
    loss = LossModel(np.einsum("usp,usq->upq", along, along))
    slope = 200 * rng.normal(size=(4, len(patterns)))
    start = np.array(solve_knapsack(-loss.costs, problem.resources, problem.limit))
    (step, *_) = refine(problem, Valley(slope), loss, start, 1)
    rise = loss.around(start, slope, 4.0)
    assert not rise[np.arange(4), start].any()
    every = map(np.array, itertools.product(range(len(patterns)), repeat=4))
    best = min(rise[np.arange(4), columns].sum() for columns in every if problem.used(columns) <= problem.limit)
    assert rise[np.arange(4), step].sum() == pytest.approx(best)


def test_the_loss_is_that_of_the_evaluation():
    model = tiny_llama()
    tokens = SAMPLES[0]
    assert sequence_loss(model, tokens[None]) == pytest.approx(
        np.log(evaluate(model, tokens, 16, 16).perplexity), rel=1e-5
    )
