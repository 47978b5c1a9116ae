"""Costs of changes against gradients of each token by itself, and the real rise of the loss."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from flexcim.quiet import quiet
from flexcim_flow.choice import costs
from flexcim_flow.choice.costs import LossModel, layer_curvature, loss_model, mean_gradients, sensitivities
from flexcim_flow.choice.divergence import Reference, divergence
from flexcim_flow.model.blocks import find_blocks
from flexcim_flow.passes import predictions
from flexcim_flow.passes.predictions import Predictions
from flexcim_flow.passes.statistics import InputStatistics
from flexcim_flow.passes.stream import BlockStream
from tests.support.model_families import MASK, sharp_family, tiny_inputs
from tests.support.tiny_models import tiny_llama, tiny_mamba2

pytestmark = pytest.mark.torch

SAMPLES = torch.randint(256, (6, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=[tiny_llama, tiny_mamba2], ids=["llama", "mamba2"])
def model(request, monkeypatch):
    monkeypatch.setattr(predictions, "BATCH_TOKENS", 40)
    return request.param()


@pytest.fixture(params=[("bert", None), ("bert", MASK), ("vit", None)], ids=["bert", "masked bert", "vit"])
def encoder(request, monkeypatch):
    """An encoder, what it reads, and its mask."""
    monkeypatch.setattr(predictions, "BATCH_TOKENS", 48)
    family, mask = request.param
    with quiet():
        model = sharp_family(family)
    samples = tiny_inputs(model)
    if mask is not None:
        samples[samples % 7 == 0] = mask
    return model, samples, mask


def changes_of(layers, patterns: int = 3, size: float = 1e-3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {layer.name: size * torch.randn(patterns, *layer.shape, generator=generator) for layer in layers}


def layers_of(model):
    return [layer for block in find_blocks(model) for layer in block.layers]


def measured(model, layers, changes, samples=SAMPLES, seed: int = 0, mask: int | None = None):
    """Sensitivities along the first change of each layer, and the predictions, counted."""
    probes = {name: change[0] for name, change in changes.items()}
    return sensitivities(model, layers, probes, samples, seed, mask)


def predicted_by(model, samples, mask) -> torch.Tensor:
    """Logits of the predictions, [predictions, vocabulary or classes], from a plain call of the model."""
    logits = model(samples).logits
    if model.can_generate():
        logits = logits[:, :-1]
    elif mask is not None:
        logits = logits[samples == mask]
    return logits.reshape(-1, logits.shape[-1])


def test_sensitivities_are_sums_over_the_gradients_of_each_token(model, monkeypatch):
    assert_sums_over_tokens(model, SAMPLES, None, monkeypatch)


def test_sensitivities_of_encoders_are_such_sums_too(encoder, monkeypatch):
    model, samples, mask = encoder
    assert_sums_over_tokens(model, samples, mask, monkeypatch)


def assert_sums_over_tokens(model, samples, mask, monkeypatch) -> None:
    drawn = []
    draw = costs.label_drawer(0)

    def noting(logits):
        labels = draw(logits)
        drawn.append(labels.flatten())
        return labels

    monkeypatch.setattr(costs, "label_drawer", lambda seed: noting)
    layers = layers_of(model)
    changes = changes_of(layers)
    felt, counted = measured(model, layers, changes, samples, mask=mask)
    assert len(drawn) > 1
    inputs, outputs = {}, {}
    for layer in layers:
        layer.watch(lambda seen, name=layer.name: inputs.update({name: seen.detach()}))
        layer.watch_outputs(lambda seen, name=layer.name: (seen.retain_grad(), outputs.update({name: seen})))
    logits = predicted_by(model, samples, mask)
    assert counted == len(logits)
    cross_entropy(logits, torch.cat(drawn), reduction="sum").backward()
    for layer in layers:
        gradient = outputs[layer.name].grad
        assert torch.allclose(felt[layer.name].squares, gradient.square().sum(dim=(0, 1)), rtol=1e-3, atol=1e-7)
        assert felt[layer.name].squares.max() > 0
        along = ((inputs[layer.name] @ changes[layer.name][0].T) * gradient).sum(dim=-1).square().sum().item()
        assert felt[layer.name].along == pytest.approx(along, rel=1e-3)


def test_mean_gradients_are_those_of_the_divergence(model):
    assert_mean_gradients(model, SAMPLES, None)


def test_mean_gradients_of_encoders_are_so_too(encoder):
    assert_mean_gradients(*encoder)


def assert_mean_gradients(model, samples, mask) -> None:
    layers = layers_of(model)
    logits = predicted_by(model, samples, mask)
    wanted = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2)).log_softmax(dim=-1)
    likeliest = torch.arange(logits.shape[-1], dtype=torch.int32).expand_as(wanted)
    reference = Reference(samples, Predictions.of(model, mask), likeliest, wanted)
    found, mean = mean_gradients(model, layers, reference)
    assert mean == pytest.approx(divergence(model, reference), rel=1e-5)
    cross_entropy(logits, wanted.exp()).backward()
    for layer in layers:
        assert torch.allclose(found[layer.name], layer.module.weight.grad, rtol=1e-3, atol=1e-6)


def test_nothing_stays_on_the_model(model):
    layers = layers_of(model)
    measured(model, layers, changes_of(layers))
    mean_gradients(model, layers, Reference.of(model, SAMPLES))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_curvature_is_the_formula_output_by_output():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 7, generator=generator)
    gradients = torch.randn(50, 4, generator=generator)
    changes = torch.randn(3, 4, 7, generator=generator)
    seen = InputStatistics(7, with_moments=True)
    seen.add(inputs)
    felt = costs.Sensitivity.of(changes[1])
    for part in (slice(0, 20), slice(20, 50)):
        felt.add(inputs[part], gradients[part])
    found = layer_curvature(changes, seen, felt, 40)
    moments = (inputs.T @ inputs / 50).numpy()
    squares = gradients.square().sum(dim=0).numpy()
    plain = np.array([[np.diag(a @ moments @ b.T) @ squares / 80 for b in changes.numpy()] for a in changes.numpy()])
    assert np.allclose(found / found[1, 1], plain / plain[1, 1], rtol=1e-4)
    # The level is that of the probe, token by token.
    along = sum(float(g @ changes[1] @ x) ** 2 for g, x in zip(gradients, inputs, strict=True))
    assert found[1, 1] == pytest.approx(along / 80, rel=1e-4)
    assert np.array_equal(found, found.T)


def test_sampled_outputs_stand_for_all_on_average():
    """Over all samples of three outputs of six the mean is exact, as each output and each pair comes equally often."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 7, generator=generator)
    # The loss feels the outputs alike, so that no sample finds them to make up for each other.
    gradients = torch.randn(50, 1, generator=generator) + 0.3 * torch.randn(50, 6, generator=generator)
    probe = torch.randn(1, 7, generator=generator) + 0.3 * torch.randn(6, 7, generator=generator)
    whole = costs.Sensitivity.of(probe)
    whole.add(inputs, gradients)
    rises, squares = [], torch.zeros(6)
    for some in map(torch.tensor, itertools.combinations(range(6), 3)):
        felt = costs.Sensitivity.of(probe[some], 6, some)
        felt.add(inputs, gradients)
        felt.scale(3.0)
        rises.append(felt.rise / 9)
        squares[some] += felt.share * felt.squares / 9
    assert np.mean(rises) == pytest.approx(whole.rise, rel=1e-5)
    assert torch.allclose(squares / len(rises), whole.squares, rtol=1e-5)
    everything = costs.Sensitivity.of(probe, 6, torch.arange(6))
    everything.add(inputs, gradients)
    assert everything.rise == pytest.approx(whole.along, rel=1e-6)


def test_a_layer_that_no_token_reaches_costs_nothing():
    unseen = InputStatistics(7, with_moments=True)
    felt = costs.Sensitivity.of(torch.ones(4, 7))
    assert not layer_curvature(torch.ones(2, 4, 7), unseen, felt, 10).any()


def test_layers_of_a_unit_add_up(model):
    layers = layers_of(model)
    dense = BlockStream(model, find_blocks(model), SAMPLES, moments=True).dense
    changes = changes_of(layers)
    felt, tokens = measured(model, layers, changes)
    treated = {layer.name: layer.weight + changes[layer.name] for layer in layers}
    single = loss_model([[layer] for layer in layers], treated, dense, felt, tokens)
    pairs = loss_model([layers[:2], layers[2:]], treated, dense, felt, tokens)
    assert single.costs.shape == (len(layers), 3)
    assert (single.costs > 0).all()
    assert np.allclose(pairs.costs[0], single.costs[:2].sum(axis=0))


def test_labels_that_the_model_draws_depend_on_the_seed_only(model):
    layers = layers_of(model)
    changes = changes_of(layers)
    first, again, other = (measured(model, layers, changes, seed=seed)[0] for seed in (3, 3, 4))
    name = layers[0].name
    assert first[name].along == again[name].along != other[name].along


def test_the_costs_foresee_the_divergence_from_the_model():
    """In the last layer before the head tokens do not mix any more: what is assumed of them holds."""
    torch.manual_seed(0)
    model = tiny_llama()
    model.lm_head.weight.data.mul_(20)  # predictions that are not all alike
    layer = layers_of(model)[-1]
    change = 0.02 * torch.randn(1, *layer.shape)
    sequences = SAMPLES[:, :8].repeat(200, 1)
    dense = BlockStream(model, find_blocks(model), sequences, moments=True).dense
    felt, tokens = measured(model, [layer], {layer.name: change}, sequences)
    found = layer_curvature(change, dense[layer.name], felt[layer.name], tokens)[0, 0]
    with torch.no_grad():
        before = model(input_ids=SAMPLES[:, :8]).logits[:, :-1].log_softmax(dim=-1)
        layer.weight.add_(change[0])
        after = model(input_ids=SAMPLES[:, :8]).logits[:, :-1].log_softmax(dim=-1)
    nats = (before.exp() * (before - after)).sum(dim=-1).mean().item()
    assert found == pytest.approx(nats, rel=0.2)


def test_the_loss_around_a_pruned_model():
    rng = np.random.default_rng(0)
    along = rng.normal(size=(2, 5, 3))
    loss = LossModel(np.einsum("usp,usq->upq", along, along))
    slope = rng.normal(size=(2, 3))
    columns = np.array([2, 0])
    rise = loss.around(columns, slope, 3.0)
    for unit, column in enumerate(columns):
        apart = ((along[unit] - along[unit][:, [column]]) ** 2).sum(axis=0)
        assert np.allclose(rise[unit], slope[unit] - slope[unit, column] + 3 * apart)
