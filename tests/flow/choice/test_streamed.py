"""Measuring block by block against the whole model in memory: the same costs, divergences and choice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from flexcim.config.macro import PRESETS
from flexcim.quiet import quiet
from flexcim_flow.choice import measured
from flexcim_flow.choice import streamed as streaming
from flexcim_flow.choice.budgets import SparsityBudget, pose
from flexcim_flow.choice.evidence import Evidence, searched
from flexcim_flow.choice.measured import MEASURED, fits_in_memory, measure_costs, set_up
from flexcim_flow.choice.problem import units_of
from flexcim_flow.choice.streamed import StreamedBench, bench_bytes
from flexcim_flow.common.options import Search, Update
from flexcim_flow.layer.treatment import Treatment
from flexcim_flow.model.blocks import find_blocks
from flexcim_flow.model.checkpoint import load_checkpoint
from flexcim_flow.passes.stream import BlockStream
from flexcim_flow.samples.text import mask_places
from tests.support.model_families import MASK, sharp_family, tiny_family, tiny_inputs
from tests.support.tiny_models import save_tiny, tiny_llama, tiny_mamba2

pytestmark = pytest.mark.torch

# Two batches, and sequences that are shorter than the samples.
SAMPLES = torch.randint(256, (8, 200), generator=torch.Generator().manual_seed(0))
GUARD = torch.randint(256, (3, 24), generator=torch.Generator().manual_seed(1))
PATTERNS = PRESETS["flexcim"].patterns[-3:]


def mixtral():
    with quiet():
        model = tiny_family("mixtral")
        model.set_experts_implementation("eager")
    return model


def bert():
    with quiet():
        return sharp_family("bert")


def vit():
    with quiet():
        return sharp_family("vit")


MODELS = {"llama": tiny_llama, "mamba2": tiny_mamba2, "mixtral": mixtral, "bert": bert, "vit": vit}


def evidence_of(model, blocks, *, moments: bool = True) -> Evidence:
    samples, guard, mask = SAMPLES, GUARD, None
    if model.main_input_name == "pixel_values":
        samples, guard = tiny_inputs(model, samples=14).split([9, 5])
    elif not model.can_generate():
        samples, guard, mask = mask_places(SAMPLES, MASK, 0), mask_places(GUARD, MASK, 0), MASK
    units = tuple((layer,) for block in blocks for layer in block.layers)
    return Evidence(
        model=model,
        units=units,
        dense=BlockStream(model, blocks, searched(samples, units), moments=moments).dense,
        treatment=Treatment("obs", Update.LSQ),
        samples=samples,
        guard=guard,
        mask=mask,
        blocks=blocks,
        steps=0,
    )


@pytest.fixture(params=MODELS)
def evidence(request):
    model = MODELS[request.param]()
    return evidence_of(model, find_blocks(model))


def streamed(evidence: Evidence) -> StreamedBench:
    return StreamedBench(
        evidence.model,
        evidence.blocks,
        evidence.units,
        PATTERNS,
        evidence.treatment,
        evidence.samples,
        evidence.guard,
        evidence.mask,
    )


def problem_of(evidence: Evidence, sparsity: float = 0.6):
    layers = [(layer.name, layer.shape) for unit in evidence.units for layer in unit]
    return pose(units_of([("all", layers)], by_block=False), PRESETS["flexcim"].patterns, SparsityBudget(sparsity))


def test_both_ways_measure_the_same(evidence):
    before = {name: tensor.clone() for name, tensor in evidence.model.state_dict().items()}
    bench = set_up(PATTERNS, evidence)
    layers = [layer for unit in evidence.units for layer in unit]
    evidence = replace(evidence, seed=3)
    expected = measure_costs(bench, PATTERNS, evidence).curvature
    found = streamed(evidence).loss_model(seed=3).curvature
    assert expected.max() > 0
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.max())

    columns = np.random.default_rng(0).integers(len(PATTERNS), size=(2, len(layers)))
    far = streamed(evidence).divergences({"first": columns[0], "second": columns[1]})
    assert far == {
        "first": pytest.approx(bench.divergence(columns[0]), rel=1e-5),
        "second": pytest.approx(bench.divergence(columns[1]), rel=1e-5),
    }
    assert min(far.values()) > 1e-5
    assert far["first"] != far["second"]
    bench.restore()
    assert all(torch.equal(tensor, before[name]) for name, tensor in evidence.model.state_dict().items())


def test_costs_of_some_outputs_are_near_those_of_all(monkeypatch):
    model = tiny_llama()
    bench = streamed(evidence_of(model, find_blocks(model)))
    expected = np.array([bench.loss_model(seed=seed).costs for seed in range(8)])
    monkeypatch.setattr(streaming, "COST_OUTPUTS", 16)  # of up to 44
    found = np.array([bench.loss_model(seed=seed).costs for seed in range(8)])
    assert np.array_equal(bench.loss_model(seed=0).costs, found[0])
    # Layers of 12 outputs show that all else stays the same.
    few = [index for index, (layer,) in enumerate(bench.units) if layer.shape[0] <= 16]
    assert len(few) == 6
    assert np.allclose(found[:, few], expected[:, few], rtol=1e-3, atol=0)
    others = np.setdiff1d(np.arange(len(bench.units)), few)
    assert not np.isclose(found[:, others], expected[:, others], rtol=1e-3, atol=0).all(axis=(0, 2)).any()
    assert found[:, others].mean() == pytest.approx(expected[:, others].mean(), rel=0.2)


def test_what_does_not_fit_is_chosen_from_disk_and_chosen_alike(tmp_path, monkeypatch):
    model = tiny_llama()
    folder = save_tiny(tmp_path, model)
    within = evidence_of(model, find_blocks(model))
    problem = problem_of(within)
    expected = MEASURED.choose(problem, within)
    assert expected.search is Search.IN_MEMORY

    monkeypatch.setattr(measured, "BENCH_BYTES", 1000)
    checkpoint = load_checkpoint(folder, streamed=True)
    block_of = {layer.name: block for block in checkpoint.blocks for layer in block.layers}
    noted: dict[str, object] = {}

    def once(name, find):
        return noted[name] if name in noted else noted.setdefault(name, find())

    evidence = replace(
        evidence_of(checkpoint.model, checkpoint.blocks, moments=False),
        once=once,
        loaded=lambda layer: block_of[layer.name].loaded(),
    )
    found = MEASURED.choose(problem, evidence)
    assert found.search is Search.STREAMED
    assert found.trials.keys() == expected.trials.keys()
    assert found.trials == {name: pytest.approx(nats, rel=1e-5) for name, nats in expected.trials.items()}
    assert found.assignment.patterns == expected.assignment.patterns
    assert set(noted) == {"curvature", "trials"}
    monkeypatch.setattr(StreamedBench, "divergences", lambda *arguments: pytest.fail("measured twice"))
    monkeypatch.setattr(StreamedBench, "loss_model", lambda *arguments: pytest.fail("measured twice"))
    assert MEASURED.choose(problem, evidence) == found


def test_what_a_bench_takes():
    model = tiny_llama()
    evidence = evidence_of(model, find_blocks(model))
    weights = sum(layer.weight.numel() for (layer,) in evidence.units)
    squares = sum(layer.shape[1] ** 2 for (layer,) in evidence.units)
    assert bench_bytes(evidence.units, 5) == 4 * (7 * weights + squares)
    assert fits_in_memory(problem_of(evidence), evidence.units)
