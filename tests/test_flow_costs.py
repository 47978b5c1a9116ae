"""Costs of changes against gradients of each sequence by itself, and the real rise of the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from flow import costs
from flow.blocks import find_blocks
from flow.costs import LossModel, directional_derivatives, loss_model, sequences_of, shrunk_moments
from flow.divergence import Reference
from tests.tiny_models import tiny_llama, tiny_mamba2

SAMPLES = torch.randint(256, (6, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=[tiny_llama, tiny_mamba2], ids=["llama", "mamba2"])
def model(request):
    return request.param()


def changes_of(layers, patterns: int = 3, size: float = 1e-3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {layer.name: size * torch.randn(patterns, *layer.shape, generator=generator) for layer in layers}


def layers_of(model):
    return [layer for block in find_blocks(model) for layer in block.layers]


def certain_of(samples: torch.Tensor) -> Reference:
    """Predictions that give each next token of the text all of the probability: the divergence is the text's loss."""
    return Reference(samples, samples[:, 1:, None].int(), torch.zeros(len(samples), samples.shape[1] - 1, 1))


def test_derivatives_are_the_gradients_of_each_sequence_along_each_change(model, monkeypatch):
    monkeypatch.setattr(costs, "BATCH_TOKENS", 40)
    monkeypatch.setattr(costs, "COST_LENGTH", 10)
    layers = layers_of(model)
    changes = changes_of(layers)
    along, tokens = directional_derivatives(model, layers, changes, SAMPLES, certain_of(sequences_of(SAMPLES)))
    assert (tuple(along.shape), tokens) == ((12, len(layers), 3), 9)
    for index, sequence in enumerate(SAMPLES.reshape(12, 10)):
        logits = model(input_ids=sequence[None], use_cache=False).logits[0, :-1]
        model.zero_grad()
        cross_entropy(logits, sequence[1:], reduction="sum").backward()
        for place, layer in enumerate(layers):
            expected = (changes[layer.name] * layer.module.weight.grad).sum(dim=(1, 2))
            assert torch.allclose(along[index, place].float(), expected, rtol=1e-3, atol=1e-5)


def test_nothing_stays_on_the_model(model):
    layers = layers_of(model)
    loss_model(model, [[layer] for layer in layers], changes_of(layers), SAMPLES, seed=0)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_slope_is_the_gradient_of_the_mean_divergence(model):
    layers = layers_of(model)
    changes = changes_of(layers)
    generator = torch.Generator().manual_seed(2)
    wanted = torch.randn(len(SAMPLES), SAMPLES.shape[1] - 1, 256, generator=generator).log_softmax(dim=-1)
    reference = Reference(SAMPLES, torch.arange(256, dtype=torch.int32).expand_as(wanted), wanted)
    found = loss_model(model, [[layer] for layer in layers], changes, SAMPLES, 0, reference)
    logits = model(input_ids=SAMPLES, use_cache=False).logits[:, :-1]
    cross_entropy(logits.flatten(0, 1), wanted.exp().flatten(0, 1)).backward()
    for place, layer in enumerate(layers):
        expected = (changes[layer.name] * layer.module.weight.grad).sum(dim=(1, 2))
        assert np.allclose(found.slope[place], expected.numpy(), rtol=1e-3, atol=1e-6)


def test_units_of_several_layers_change_together(model):
    layers = layers_of(model)
    changes = changes_of(layers)
    reference = certain_of(SAMPLES)
    single = loss_model(model, [[layer] for layer in layers], changes, SAMPLES, 0, reference)
    pairs = loss_model(model, [layers[:2], layers[2:]], changes, SAMPLES, 0, reference)
    assert np.allclose(pairs.slope[0], single.slope[:2].sum(axis=0))
    along, tokens = directional_derivatives(model, layers, changes, SAMPLES, 0)
    both = along[:, :2].sum(dim=1).square().mean(dim=0) / (2 * tokens)
    assert np.allclose(pairs.curvature[0, [0, 1, 2], 0, [0, 1, 2]], both)
    assert pairs.rise(np.array([1, 1])) == pytest.approx(
        pairs.costs[:, 1].sum() + 2 * pairs.curvature[0, 1, 1, 1], rel=1e-6
    )


def test_what_units_have_in_common_by_chance_is_taken_away():
    generator = torch.Generator().manual_seed(0)
    alone = torch.randn(300, 20, 3, generator=generator, dtype=torch.float64)
    together = torch.randn(300, 1, 1, generator=generator, dtype=torch.float64)
    for drawn, bound in ((alone, 0.004), (alone + together, 0.11)):
        truth = torch.zeros(20, 3, 20, 3, dtype=torch.float64) + (0 if drawn is alone else 1)
        raw = torch.einsum("sup,svq->upvq", drawn, drawn) / 300
        found = shrunk_moments(drawn)
        units = torch.arange(20)
        assert torch.equal(found[units, :, units], raw[units, :, units])
        others = ~torch.eye(20, dtype=torch.bool)[:, None, :, None].expand_as(raw)
        error, before = ((each - truth)[others].square().mean() for each in (found, raw))
        assert error < before
        assert error < bound
    # With nothing but chance, next to nothing is left.
    assert shrunk_moments(alone)[0, 0, 1:].abs().mean() < 0.2 * alone.flatten(1).T.cov()[0, 3:].abs().mean()


def test_labels_that_the_model_draws_depend_on_the_seed_only(model):
    layers = layers_of(model)
    units, changes = [[layer] for layer in layers], changes_of(layers)
    first, again, other = (loss_model(model, units, changes, SAMPLES, seed) for seed in (3, 3, 4))
    assert np.array_equal(first.costs, again.costs)
    assert not np.array_equal(first.costs, other.costs)
    assert not first.slope.any()
    assert (first.costs > 0).all()


def test_the_costs_foresee_the_divergence_from_the_model():
    """The Fisher information along a change is the divergence's second derivative; many labels make it exact."""
    torch.manual_seed(0)
    model = tiny_llama()
    model.lm_head.weight.data.mul_(20)  # predictions that are not all alike
    layer = layers_of(model)[1]
    change = 0.02 * torch.randn(1, *layer.shape)
    sequences = SAMPLES[:, :8].repeat(200, 1)
    found = loss_model(model, [[layer]], {layer.name: change}, sequences, seed=0).costs[0, 0]
    with torch.no_grad():
        before = model(input_ids=SAMPLES[:, :8]).logits[:, :-1].log_softmax(dim=-1)
        layer.weight.add_(change[0])
        after = model(input_ids=SAMPLES[:, :8]).logits[:, :-1].log_softmax(dim=-1)
    divergence = (before.exp() * (before - after)).sum(dim=-1).mean().item()
    assert found == pytest.approx(divergence, rel=0.2)


def test_parts_of_a_loss_model():
    rng = np.random.default_rng(0)
    whole = LossModel(rng.random((2, 3)), rng.random((2, 3, 2, 3)))
    some = whole.restricted([2, 0])
    assert some.rise(np.array([0, 1])) == pytest.approx(whole.rise(np.array([2, 0])))
