"""How well a model predicts a text: bits per byte, perplexity and added loss, each with its standard error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from flexcim.errors import FlexCiMError
from flexcim_flow.common.options import BATCH_TOKENS
from flexcim_flow.model.blocks import Block
from flexcim_flow.passes.stream import BlockStream

__all__ = ["Evaluation", "EvaluationError", "Mean", "added_loss", "evaluate", "evaluate_blocks"]

_PASS_TOKENS = 32768
"""Tokens that pass all blocks before the next ones do: their hidden states are in memory, twice."""


class EvaluationError(FlexCiMError):
    """A text or an option that nothing can be measured with; the message is one sentence."""


@dataclass(frozen=True)
class Mean:
    """A mean over tokens, and the standard error that it has because the text is only a sample of all texts.

    Parameters
    ----------
    value : float
        The mean.
    standard_error : float
        Its standard error, with whole windows as the independent samples; NaN if there is only one.
    """

    value: float
    standard_error: float

    @classmethod
    def of_windows(cls, sums: NDArray[np.float64], tokens: NDArray[np.int64]) -> Mean:
        """Mean of all tokens from the sums of windows of unlike size, and its standard error.

        Tokens of one window are not independent of each other, so the windows are what is sampled, and the mean is a
        ratio of two sums: SE = sqrt(W / (W - 1) * sum_w (s_w - mean * t_w)^2) / sum_w t_w (Cochran, Sampling
        Techniques, 1977, section 6.4, without the correction for finite populations).

        Parameters
        ----------
        sums : float64 [windows]
            What each window's tokens add up to.
        tokens : int64 [windows]
            How many they are.
        """
        mean = float(sums.sum() / tokens.sum())
        windows = len(sums)
        if windows == 1:
            return cls(mean, math.nan)
        spread = float(np.square(sums - mean * tokens).sum())
        return cls(mean, math.sqrt(windows / (windows - 1) * spread) / int(tokens.sum()))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How well a model predicts a text.

    Parameters
    ----------
    window_nats : float64 [windows]
        Negative log-likelihood of each window's tokens, in nats.
    window_tokens : int64 [windows]
        Tokens that were predicted in each window. Together they are all but the text's first, which nothing comes
        before.
    vocabulary : int
        Number of different tokens.
    size : int
        Bytes of the text in UTF-8.
    """

    window_nats: NDArray[np.float64]
    window_tokens: NDArray[np.int64]
    vocabulary: int
    size: int

    def to_mapping(self) -> dict[str, Any]:
        """The evaluation as JSON's plain values."""
        return {
            "window_nats": self.window_nats.tolist(),
            "window_tokens": self.window_tokens.tolist(),
            "vocabulary": self.vocabulary,
            "size": self.size,
        }

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Evaluation:
        """The evaluation that `to_mapping` was asked for."""
        nats, tokens = np.array(values["window_nats"]), np.array(values["window_tokens"])
        return cls(nats, tokens, values["vocabulary"], values["size"])

    @property
    def nats(self) -> float:
        """Negative log-likelihood of all predicted tokens, in nats."""
        return float(self.window_nats.sum())

    @property
    def predicted(self) -> int:
        """Tokens that were predicted."""
        return int(self.window_tokens.sum())

    @property
    def loss(self) -> Mean:
        """Negative log-likelihood of a predicted token, in nats."""
        return Mean.of_windows(self.window_nats, self.window_tokens)

    @property
    def bits_per_byte(self) -> float:
        """Bits in which the model could encode the text, by byte; the first token costs log2(vocabulary) bits."""
        return (self.nats / math.log(2) + math.log2(self.vocabulary)) / self.size

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-likelihood of a predicted token."""
        return math.exp(self.nats / self.predicted)


def added_loss(before: Evaluation, after: Evaluation) -> Mean:
    """How much worse a token is predicted after a change of the model, in nats.

    The windows are compared in pairs, so that what is hard for both models does not count as uncertainty.

    Raises
    ------
    ValueError
        If the two were not measured on the same windows.
    """
    if not np.array_equal(before.window_tokens, after.window_tokens):
        raise ValueError("two evaluations can be compared on the same windows only")
    return Mean.of_windows(after.window_nats - before.window_nats, before.window_tokens)


def evaluate(
    model: PreTrainedModel,
    tokens: Tensor,
    size: int,
    length: int,
    stride: int | None = None,
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> Evaluation:
    """Measure a causal language model on a text, in windows.

    Window i sees the ``length`` tokens from i * stride on and predicts the token after each. Those that an earlier
    window has predicted already are not counted again, so that every token but the first of the text counts once, and
    with a stride below the length none of them (but those of the first window) has less than ``length - stride`` tokens
    before it.

    Parameters
    ----------
    model : PreTrainedModel
        The model, in evaluation mode.
    tokens : Tensor
        The text, [tokens], int64.
    size : int
        Bytes of the text in UTF-8.
    length : int
        Tokens of a window.
    stride : int, optional
        Tokens from one window to the next; by default the length, so that windows do not overlap.
    batch_tokens : int
        About how many tokens pass the model at once.

    Raises
    ------
    EvaluationError
        If the text has fewer than two tokens, or the stride is not between 1 and the length.
    """

    def losses(inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            logits = model(input_ids=inputs, use_cache=False).logits.float()
        return cross_entropy(logits.transpose(1, 2), targets, reduction="none")

    return _evaluation(model, tokens, size, length, stride, batch_tokens, losses)


def evaluate_blocks(
    model: PreTrainedModel,
    blocks: Sequence[Block],
    tokens: Tensor,
    size: int,
    length: int,
    stride: int | None = None,
    during: Callable[[Block], AbstractContextManager[None]] = lambda block: nullcontext(),
) -> Evaluation:
    """`evaluate` with one block's weights in memory at a time.

    Parameters
    ----------
    model, tokens, size, length, stride
        As in `evaluate`.
    blocks : sequence of Block
        The model's stack.
    during : callable, optional
        Gives a context that is open while a block, which is loaded, runs.

    Raises
    ------
    EvaluationError
        As in `evaluate`.
    """

    def losses(inputs: Tensor, targets: Tensor) -> Tensor:
        stream = BlockStream(model, blocks, inputs)
        for block in blocks:
            with block.loaded(), during(block):
                stream.skip()
        return stream.losses(targets)

    return _evaluation(model, tokens, size, length, stride, _PASS_TOKENS, losses)


def _evaluation(
    model: PreTrainedModel,
    tokens: Tensor,
    size: int,
    length: int,
    stride: int | None,
    most: int,
    losses: Callable[[Tensor, Tensor], Tensor],
) -> Evaluation:
    """Evaluate windows, about ``most`` tokens at once, whose tokens' losses are told for inputs and targets."""
    if len(tokens) < 2:
        raise EvaluationError(f"the evaluation text has {len(tokens)} tokens, but at least 2 are needed")
    stride = length if stride is None else stride
    if not 1 <= stride <= length:
        raise EvaluationError(f"stride must be between 1 and the length of a window, {length}, not {stride}")
    nats, counts = [], []
    for inputs, targets, first in _windows(tokens, length, stride, most):
        found = losses(inputs, targets)[:, first:]
        nats.append(found.sum(dim=1, dtype=torch.float64).cpu())
        counts += [found.shape[1]] * len(found)
    vocabulary = model.get_output_embeddings().weight.shape[0]
    return Evaluation(torch.cat(nats).numpy(), np.array(counts), vocabulary, size)


def _windows(tokens: Tensor, length: int, stride: int, most: int) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Batches of windows: inputs and the tokens that follow them, [windows, length] each, and the first that counts."""
    inputs, targets = tokens[:-1], tokens[1:]
    starts = range(0, len(inputs) - length + 1, stride)
    # Nothing was predicted before the first window; where windows overlap, the others count their last targets alone.
    parts = [(starts, 0)] if stride == length else [(starts[:1], 0), (starts[1:], length - stride)]
    for part, first in parts:
        step = max(1, most // length)
        for index in range(0, len(part), step):
            places = torch.tensor(part[index : index + step])[:, None] + torch.arange(length)
            yield inputs[places], targets[places], first
    predicted = starts[-1] + length if starts else 0
    if predicted < len(inputs):
        start = predicted if stride == length else max(0, len(inputs) - length)
        yield inputs[None, start:], targets[None, start:], predicted - start
