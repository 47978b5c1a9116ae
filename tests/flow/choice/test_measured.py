"""Choosing patterns for a whole model: who wins, what is compared, and what is left as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from flexcim.config.macro import PRESETS
from flexcim_flow.choice.budgets import SparsityBudget, pose
from flexcim_flow.choice.divergence import Reference
from flexcim_flow.choice.evidence import Evidence
from flexcim_flow.choice.measured import MEASURED
from flexcim_flow.choice.problem import Problem, units_of
from flexcim_flow.choice.refinement import Bench
from flexcim_flow.choice.selector import SELECTORS
from flexcim_flow.common.options import Update
from flexcim_flow.layer.treatment import Treatment
from flexcim_flow.model.blocks import find_blocks
from flexcim_flow.passes.stream import BlockStream
from tests.support.tiny_models import tiny_llama

pytestmark = pytest.mark.torch

SAMPLES = torch.randint(256, (4, 24), generator=torch.Generator().manual_seed(0))
GUARD = torch.randint(256, (3, 24), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def evidence():
    model = tiny_llama()
    blocks = find_blocks(model)
    return Evidence(
        model=model,
        units=tuple((layer,) for block in blocks for layer in block.layers),
        dense=BlockStream(model, blocks, SAMPLES, moments=True).dense,
        treatment=Treatment("obs", Update.LSQ),
        samples=SAMPLES,
        guard=GUARD,
        steps=1,
    )


def problem_of(evidence: Evidence, sparsity: float, menu: str = "flexcim") -> Problem:
    layers = [(layer.name, layer.shape) for (layer,) in evidence.units]
    return pose(units_of([("all", layers)], by_block=False), PRESETS[menu].patterns, SparsityBudget(sparsity))


@pytest.mark.parametrize("method", SELECTORS.own)
def test_every_method_keeps_the_budget(evidence, method):
    problem = problem_of(evidence, 0.6)
    found = SELECTORS[method].choose(problem, evidence)
    assert found.assignment.used <= problem.limit
    assert len(found.assignment.patterns) == len(evidence.units)
    assert found.assignment.used == problem.used([problem.patterns.index(p) for p in found.assignment.patterns])
    assert bool(found.trials) == (method == "measured")


def test_measuring_takes_what_diverges_least_and_leaves_the_model_dense(evidence):
    before = {name: tensor.clone() for name, tensor in evidence.model.state_dict().items()}
    found = MEASURED.choose(problem_of(evidence, 0.55), evidence)
    assert all(torch.equal(tensor, before[name]) for name, tensor in evidence.model.state_dict().items())
    assert found.assignment.method == min(found.trials, key=found.trials.__getitem__)
    assert {"knapsack", "refined 1"} <= set(found.trials)
    assert sum(name.startswith(("uniform", "paper")) for name in found.trials) >= 2
    # What is said to have been measured can be measured again.
    treated = {
        layer.name: evidence.treatment.apply(
            layer.weight, evidence.dense[layer.name], [found.assignment.patterns[index]]
        ).weights
        for index, (layer,) in enumerate(evidence.units)
    }
    reference = Reference.of(evidence.model, GUARD)
    bench = Bench(evidence.model, evidence.units, treated, reference)
    measured = bench.divergence(np.zeros(len(evidence.units), dtype=np.int64))
    assert measured == pytest.approx(min(found.trials.values()), rel=1e-3)


def test_the_same_seed_chooses_the_same(evidence):
    problem = problem_of(evidence, 0.6)
    first, again = (MEASURED.choose(problem, evidence) for _ in range(2))
    assert first.assignment == again.assignment
    assert first.trials == again.trials
    other = MEASURED.choose(problem, replace(evidence, seed=5))
    assert set(other.trials) - {"refined 1"} == set(first.trials) - {"refined 1"}


def test_blocks_have_a_pattern_each_if_asked_for():
    model = tiny_llama()
    blocks = find_blocks(model)
    named = [(block.name, [(layer.name, layer.shape) for layer in block.layers]) for block in blocks]
    evidence = Evidence(
        model=model,
        units=tuple(block.layers for block in blocks),
        dense=BlockStream(model, blocks, SAMPLES, moments=True).dense,
        treatment=Treatment("wanda", Update.NONE),
        samples=SAMPLES,
        guard=GUARD,
        steps=1,
    )
    problem = pose(units_of(named, by_block=True), PRESETS["flexcim"].patterns, SparsityBudget(0.6))
    assert len(MEASURED.choose(problem, evidence).assignment.patterns) == 3
