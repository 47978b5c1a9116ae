"""Divergences against torch's own, and what is lost where not every token is remembered."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import kl_div

from flexcim.quiet import quiet
from flexcim_flow.choice import divergence as module
from flexcim_flow.choice.divergence import Reference, divergence
from flexcim_flow.passes import predictions
from tests.support.model_families import MASK, sharp_family, tiny_inputs
from tests.support.tiny_models import tiny_llama, tiny_mamba2

pytestmark = pytest.mark.torch

SAMPLES = torch.randint(256, (5, 20), generator=torch.Generator().manual_seed(0))


def changed(build):
    """A model, and what it predicts before it is changed."""
    torch.manual_seed(0)
    model = build()
    reference = Reference.of(model, SAMPLES)
    before = logs_of(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model, reference, before


def logs_of(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=SAMPLES, use_cache=False).logits[:, :-1].log_softmax(dim=-1).flatten(0, 1)


@pytest.mark.parametrize("build", [tiny_llama, tiny_mamba2])
def test_the_divergence_is_that_of_torch(build, monkeypatch):
    monkeypatch.setattr(predictions, "BATCH_TOKENS", 40)
    model, reference, before = changed(build)
    expected = kl_div(logs_of(model), before, log_target=True, reduction="batchmean").item()
    assert expected > 1e-3
    assert divergence(model, reference) == pytest.approx(expected, rel=1e-3)


def test_tokens_that_are_not_remembered_count_as_one(monkeypatch):
    monkeypatch.setattr(module, "KEPT_TOKENS", 10)
    model, reference, before = changed(tiny_llama)
    likeliest = before.topk(10, dim=-1).indices

    def merged(logs: torch.Tensor) -> torch.Tensor:
        kept = logs.exp().gather(-1, likeliest)
        return torch.cat([kept, 1 - kept.sum(dim=-1, keepdim=True)], dim=-1).log()

    after = logs_of(model)
    expected = kl_div(merged(after), merged(before), log_target=True, reduction="batchmean").item()
    assert divergence(model, reference) == pytest.approx(expected, rel=1e-3)
    assert expected < kl_div(after, before, log_target=True, reduction="batchmean").item()


def test_a_model_does_not_diverge_from_itself():
    model = tiny_llama()
    assert divergence(model, Reference.of(model, SAMPLES)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("family", "mask"), [("bert", None), ("bert", MASK), ("vit", None)])
def test_predictions_of_encoders_diverge_as_torch_says(family, mask, monkeypatch):
    monkeypatch.setattr(predictions, "BATCH_TOKENS", 48)
    with quiet():
        model = sharp_family(family)
    samples = tiny_inputs(model)
    if mask is not None:
        samples[samples % 7 == 0] = mask  # not as many in each sample

    def logs() -> torch.Tensor:
        with torch.no_grad():
            answered = model(samples).logits
        counted = answered if mask is None else answered[samples == mask]
        return counted.log_softmax(dim=-1).reshape(-1, counted.shape[-1])

    reference, before = Reference.of(model, samples, mask), logs()
    assert divergence(model, reference) == pytest.approx(0, abs=1e-6)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    expected = kl_div(logs(), before, log_target=True, reduction="batchmean").item()
    assert expected > 1e-3
    assert divergence(model, reference) == pytest.approx(expected, rel=1e-3)
