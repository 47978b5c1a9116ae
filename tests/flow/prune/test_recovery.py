"""Recovery: the loss comes down, the zeros stay."""

from __future__ import annotations

import pytest
import torch

from flexcim.config.pattern import Pattern
from flexcim_flow.layer.masks import nm_mask
from flexcim_flow.model.blocks import find_blocks
from flexcim_flow.prune.recovery import RecoveryError, _rate_factor, ends, recover
from flexcim_flow.samples.text import TextError, tokenize
from tests.support.model_families import tiny_family
from tests.support.tiny_models import TEXT, byte_tokenizer, tiny_llama, tiny_mamba2

pytestmark = pytest.mark.torch

TOKENS = tokenize(TEXT, byte_tokenizer())


def pruned(build):
    """A tiny model at 2:4, and its layers."""
    model = build()
    layers = [layer for block in find_blocks(model) for layer in block.layers]
    for layer in layers:
        layer.weight.mul_(nm_mask(layer.weight.abs(), Pattern(2, 4)))
    return model, layers


@pytest.mark.parametrize("build", [tiny_llama, tiny_mamba2])
def test_the_loss_comes_down_and_the_zeros_stay(build):
    model, layers = pruned(build)
    zeros = [layer.weight == 0 for layer in layers]
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    told: list[int] = []
    losses = recover(model, layers, TOKENS, batch_tokens=96, steps=30, length=32, seed=3, rate=3e-3, begin=told.append)
    assert told == list(range(1, 31))
    assert len(losses) == 30
    assert losses[-1] < losses[0] - 0.5
    assert not model.training
    for layer, mask in zip(layers, zeros, strict=True):
        assert torch.equal(layer.weight == 0, mask)
    # Everything else learns, and nothing keeps its gradient.
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name
        assert parameter.grad is None
        assert not parameter.requires_grad


def gpt2_with_dropout():
    model = tiny_family("gpt2")
    assert model.config.resid_pdrop > 0
    return model


@pytest.mark.parametrize("build", [tiny_llama, gpt2_with_dropout])
def test_a_seed_gives_the_same_weights_again(build):
    models = []
    for seed in (1, 1, 2):
        model, layers = pruned(build)
        recover(model, layers, TOKENS, batch_tokens=96, steps=3, length=32, seed=seed)
        models.append(torch.cat([layer.weight.flatten() for layer in layers]))
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])


def test_the_rate_rises_and_falls():
    factors = [_rate_factor(step, 20) for step in range(20)]
    assert factors[:2] == [0.5, 1.0]
    assert factors[1:] == sorted(factors[1:], reverse=True)
    assert 0 < factors[-1] < 0.02
    assert _rate_factor(0, 1) == 1.0


def test_the_ends_of_a_recovery_are_means():
    assert ends([3.0]) == (3.0, 3.0)
    assert ends([3.0, 2.0, 1.0]) == (3.0, 1.0)
    assert ends([4.0, 2.0, *[9.0] * 16, 1.0, 2.0]) == (3.0, 1.5)


def test_no_steps_are_refused():
    model, layers = pruned(tiny_llama)
    with pytest.raises(RecoveryError, match=r"^recovery steps must be at least 1, not 0$"):
        recover(model, layers, TOKENS, batch_tokens=96, steps=0, length=32, seed=0)


def test_a_text_without_a_sample_is_refused():
    model, layers = pruned(tiny_llama)
    with pytest.raises(TextError, match=r"has 32 tokens, fewer than the 33 of one sample$"):
        recover(model, layers, TOKENS[:32], steps=1, length=32, seed=0)


def test_a_rate_that_breaks_the_model_is_named():
    model, layers = pruned(tiny_llama)
    with pytest.raises(
        RecoveryError, match=r"^step \d of the recovery leaves the finite numbers; rate 1e\+30 is too large$"
    ):
        recover(model, layers, TOKENS, batch_tokens=96, steps=30, length=32, seed=0, rate=1e30)
    assert not model.training
