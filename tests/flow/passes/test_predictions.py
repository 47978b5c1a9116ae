"""Which answers of a model are its predictions, kind by kind."""

from __future__ import annotations

import pytest
import torch

from flexcim.quiet import quiet
from flexcim_flow.common.options import BATCH_IMAGES
from flexcim_flow.passes import predictions as module
from flexcim_flow.passes.predictions import Predictions, batch_size, read
from tests.support.model_families import tiny_family, tiny_inputs

pytestmark = pytest.mark.torch

TOKENS = torch.tensor([[7, 1, 9, 2], [3, 9, 9, 5]])
LOGITS = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))


def test_the_last_answer_of_a_causal_model_is_none():
    predictions = Predictions(causal=True)
    assert torch.equal(predictions.among(TOKENS, LOGITS), LOGITS[:, :3])
    assert predictions.count(TOKENS) == 6


def test_a_masked_model_predicts_what_is_masked_or_else_all():
    masked = Predictions(causal=False, mask=9)
    assert torch.equal(masked.among(TOKENS, LOGITS), torch.stack([LOGITS[0, 2], LOGITS[1, 1], LOGITS[1, 2]]))
    assert masked.count(TOKENS) == 3
    every = Predictions(causal=False)
    assert torch.equal(every.among(TOKENS, LOGITS), LOGITS)
    assert every.count(TOKENS) == 8


def test_an_image_is_one_prediction():
    images = torch.zeros(5, 3, 8, 8)
    logits = torch.ones(5, 2, dtype=torch.bfloat16)
    assert Predictions(causal=False).count(images) == 5
    assert torch.equal(Predictions(causal=False).among(images, logits), logits.float())


@pytest.mark.parametrize(("family", "count"), [("llama", 5 * 23), ("bert", 5 * 24), ("vit", 5)])
def test_a_model_is_read_and_told_by_its_class(family, count):
    with quiet():
        model = tiny_family(family)
    samples = tiny_inputs(model)
    predictions = Predictions.of(model)
    with torch.no_grad():
        logits = read(model, samples).logits
    assert predictions.count(samples) == count == predictions.among(samples, logits)[..., 0].numel()


def test_batches_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "BATCH_TOKENS", 100)
    assert batch_size(torch.zeros(9, 30, dtype=torch.int64)) == 3
    assert batch_size(torch.zeros(9, 300, dtype=torch.int64)) == 1
    assert batch_size(torch.zeros(9, 3, 500, 500)) == BATCH_IMAGES
