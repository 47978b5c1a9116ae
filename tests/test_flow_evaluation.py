"""Bits per byte against a token-by-token computation."""

from __future__ import annotations

import math

import pytest
import torch

from flow import evaluation
from flow.evaluation import Evaluation, EvaluationError, evaluate
from tests.tiny_models import tiny_llama, tiny_mamba2


def by_hand(model, tokens: torch.Tensor, length: int) -> float:
    """Nats of all tokens but the first, each predicted from the tokens since its window's start."""
    nats = 0.0
    for place in range(1, len(tokens)):
        start = (place - 1) // length * length
        with torch.no_grad():
            logits = model(input_ids=tokens[None, start:place]).logits[0, -1]
        nats -= logits.log_softmax(0)[tokens[place]].item()
    return nats


@pytest.mark.parametrize("build", [tiny_llama, tiny_mamba2])
@pytest.mark.parametrize(("count", "length"), [(2, 16), (16, 16), (17, 16), (18, 16), (50, 7)])
def test_every_token_but_the_first_is_predicted_once(build, count, length, monkeypatch):
    monkeypatch.setattr(evaluation, "BATCH_TOKENS", 32)
    tokens = torch.randint(256, (count,), generator=torch.Generator().manual_seed(count))
    found = evaluate(build(), tokens, size=3 * count, length=length)
    nats = by_hand(build(), tokens, length)
    assert found.nats == pytest.approx(nats, rel=1e-4)
    assert found.predicted == count - 1
    assert found.bits_per_byte == pytest.approx((nats / math.log(2) + 8) / (3 * count), rel=1e-4)


def test_a_model_that_knows_nothing_needs_all_bits():
    # 11 tokens of a vocabulary of 16, two tokens to a byte or so.
    uniform = Evaluation(nats=10 * math.log(16), predicted=10, vocabulary=16, size=6)
    assert uniform.bits_per_byte == pytest.approx(44 / 6)
    assert uniform.perplexity == pytest.approx(16)


def test_a_single_token_is_refused():
    with pytest.raises(EvaluationError, match=r"^the evaluation text has 1 tokens, but at least 2 are needed$"):
        evaluate(tiny_llama(), torch.tensor([1]), 1, 16)
