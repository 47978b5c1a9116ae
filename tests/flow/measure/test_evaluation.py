"""Bits per byte and added loss against a token-by-token computation, standard errors against many draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from flexcim_flow.measure.evaluation import Evaluation, EvaluationError, Mean, added_loss, evaluate
from tests.support.tiny_models import tiny_llama, tiny_mamba2

pytestmark = pytest.mark.torch


def by_hand(model, tokens: torch.Tensor, length: int, stride: int) -> list[float]:
    """Nats of each token but the first, from the tokens that the first window with it in reach shows the model."""
    nats = []
    starts = range(0, max(1, len(tokens) - length), stride)
    for place in range(1, len(tokens)):
        # The last window is moved back to be whole if windows overlap.
        windows = [start for start in starts if start < place <= start + length]
        if windows:
            start = windows[0]
        else:
            start = len(tokens) - 1 - length if stride < length else (place - 1) // length * length
        with torch.no_grad():
            logits = model(input_ids=tokens[None, start:place]).logits[0, -1]
        nats.append(-logits.log_softmax(0)[tokens[place]].item())
    return nats


@pytest.mark.parametrize("build", [tiny_llama, tiny_mamba2])
@pytest.mark.parametrize(
    ("count", "length", "stride"),
    [(2, 16, 16), (16, 16, 16), (17, 16, 16), (18, 16, 16), (50, 7, 7), (30, 7, 3), (20, 16, 1), (12, 16, 5)],
)
def test_every_token_but_the_first_is_predicted_once(build, count, length, stride):
    tokens = torch.randint(256, (count,), generator=torch.Generator().manual_seed(count))
    found = evaluate(build(), tokens, 3 * count, length, stride, batch_tokens=32)
    nats = by_hand(build(), tokens, length, stride)
    assert found.nats == pytest.approx(sum(nats), rel=1e-4)
    edges = np.cumsum(found.window_tokens)[:-1]
    assert found.window_nats == pytest.approx([part.sum() for part in np.split(np.array(nats), edges)], rel=1e-4)
    assert found.predicted == count - 1
    assert found.bits_per_byte == pytest.approx((sum(nats) / math.log(2) + 8) / (3 * count), rel=1e-4)


def test_windows_do_not_overlap_unless_told():
    tokens = torch.randint(256, (50,), generator=torch.Generator().manual_seed(1))
    alone, told = (evaluate(tiny_llama(), tokens, 50, 7, *stride) for stride in ((), (7,)))
    assert alone.window_nats.tolist() == told.window_nats.tolist()
    assert alone.window_tokens.tolist() == [7] * 7


def test_a_model_that_knows_nothing_needs_all_bits():
    # 11 tokens of a vocabulary of 16, two tokens to a byte or so.
    nats = np.array([4, 6]) * math.log(16)
    uniform = Evaluation(nats, np.array([4, 6]), vocabulary=16, size=6)
    assert uniform.bits_per_byte == pytest.approx(44 / 6)
    assert uniform.perplexity == pytest.approx(16)
    assert uniform.loss.value == pytest.approx(math.log(16))
    assert uniform.loss.standard_error == pytest.approx(0, abs=1e-9)


def test_the_standard_error_is_that_of_the_mean_of_equal_windows():
    rng = np.random.default_rng(4)
    sums = rng.normal(50.0, 5.0, 40)
    mean = Mean.of_windows(sums, np.full(40, 10))
    assert mean.value == pytest.approx(sums.mean() / 10)
    assert mean.standard_error == pytest.approx(np.std(sums, ddof=1) / math.sqrt(40) / 10)


def test_the_standard_error_is_the_spread_of_many_draws():
    """Of windows of unlike size: as far as the means of many samples of 50 windows really lie apart."""
    rng = np.random.default_rng(5)
    tokens = rng.integers(1, 20, size=(4000, 50))
    sums = rng.gamma(2.0, 1.0, size=tokens.shape) * tokens
    means = [Mean.of_windows(*sample) for sample in zip(sums, tokens, strict=True)]
    found = np.mean([mean.standard_error for mean in means])
    assert found == pytest.approx(np.std([mean.value for mean in means]), rel=0.05)


def test_one_window_has_no_standard_error():
    assert math.isnan(Mean.of_windows(np.array([3.0]), np.array([2])).standard_error)


def test_added_loss_compares_window_by_window():
    tokens = np.array([10, 10, 5])
    before = Evaluation(np.array([10.0, 30.0, 5.0]), tokens, 16, 25)
    after = Evaluation(before.window_nats + 0.5 * tokens, tokens, 16, 25)
    added = added_loss(before, after)
    assert added.value == pytest.approx(0.5)
    assert added.standard_error == pytest.approx(0, abs=1e-12) != before.loss.standard_error


def test_evaluations_of_other_windows_are_not_compared():
    one, other = (Evaluation(np.ones(2), np.array(tokens), 16, 25) for tokens in ([3, 3], [3, 2]))
    with pytest.raises(ValueError, match=r"^two evaluations can be compared on the same windows only$"):
        added_loss(one, other)


@pytest.mark.parametrize("stride", [0, 17])
def test_a_stride_past_the_window_is_refused(stride):
    message = f"^stride must be between 1 and the length of a window, 16, not {stride}$"
    with pytest.raises(EvaluationError, match=message):
        evaluate(tiny_llama(), torch.arange(20), 20, 16, stride)


def test_a_single_token_is_refused():
    with pytest.raises(EvaluationError, match=r"^the evaluation text has 1 tokens, but at least 2 are needed$"):
        evaluate(tiny_llama(), torch.tensor([1]), 1, 16)
