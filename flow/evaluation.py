"""How well a model predicts a text: bits per byte, which models with different tokenizers share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from flexcim.errors import FlexCiMError
from flow.blocks import Block
from flow.options import BATCH_TOKENS
from flow.stream import BlockStream

__all__ = ["Evaluation", "EvaluationError", "evaluate", "evaluate_blocks"]

_PASS_TOKENS = 32768
"""Tokens that pass all blocks before the next ones do: their hidden states are in memory, twice."""


class EvaluationError(FlexCiMError):
    """A text that nothing can be measured on; the message is one sentence."""


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a text.

    Parameters
    ----------
    nats : float
        Negative log-likelihood of all predicted tokens, in nats.
    predicted : int
        Tokens that were predicted: all but the first, which nothing comes before.
    vocabulary : int
        Number of different tokens.
    size : int
        Bytes of the text in UTF-8.
    """

    nats: float
    predicted: int
    vocabulary: int
    size: int

    @property
    def bits_per_byte(self) -> float:
        """Bits in which the model could encode the text, by byte; the first token costs log2(vocabulary) bits."""
        return (self.nats / math.log(2) + math.log2(self.vocabulary)) / self.size

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-likelihood of a predicted token."""
        return math.exp(self.nats / self.predicted)


def evaluate(model: PreTrainedModel, tokens: Tensor, size: int, length: int) -> Evaluation:
    """Measure a causal language model on a text, in windows that do not overlap.

    Each window's inputs are the next ``length`` tokens, and its targets the tokens one further on, so that every token
    but the first of the text is predicted once, the last window being shorter.

    Parameters
    ----------
    model : PreTrainedModel
        The model, in evaluation mode.
    tokens : Tensor
        The text, [tokens], int64.
    size : int
        Bytes of the text in UTF-8.
    length : int
        Tokens of a window: the context of its last target.

    Raises
    ------
    EvaluationError
        If the text has fewer than two tokens.
    """
    _check(tokens)
    nats, vocabulary = 0.0, 0
    with torch.no_grad():
        for inputs, targets in _windows(tokens, length):
            logits = model(input_ids=inputs, use_cache=False).logits.float()
            nats += cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
            vocabulary = logits.shape[-1]
    return Evaluation(nats, len(tokens) - 1, vocabulary, size)


def evaluate_blocks(
    model: PreTrainedModel,
    blocks: Sequence[Block],
    tokens: Tensor,
    size: int,
    length: int,
    during: Callable[[Block], AbstractContextManager[None]] = lambda block: nullcontext(),
) -> Evaluation:
    """`evaluate` with one block's weights in memory at a time.

    Parameters
    ----------
    model, tokens, size, length
        As in `evaluate`.
    blocks : sequence of Block
        The model's stack.
    during : callable, optional
        Gives a context that is open while a block, which is loaded, runs.

    Raises
    ------
    EvaluationError
        If the text has fewer than two tokens.
    """
    _check(tokens)
    nats, vocabulary = 0.0, model.get_output_embeddings().weight.shape[0]
    for inputs, targets in _windows(tokens, length, _PASS_TOKENS):
        stream = BlockStream(model, blocks, inputs)
        for block in blocks:
            with block.loaded(), during(block):
                stream.skip()
        nats += stream.losses(targets).sum(dtype=torch.float64).item()
    return Evaluation(nats, len(tokens) - 1, vocabulary, size)


def _check(tokens: Tensor) -> None:
    if len(tokens) < 2:
        raise EvaluationError(f"the evaluation text has {len(tokens)} tokens, but at least 2 are needed")


def _windows(tokens: Tensor, length: int, most: int = BATCH_TOKENS) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of inputs and of the tokens that follow them, [windows, length] each, of about ``most`` tokens; the last
    one is the rest."""
    inputs, targets = tokens[:-1], tokens[1:]
    whole = len(inputs) // length * length
    step = max(1, most // length) * length
    for start in range(0, whole, step):
        batch = slice(start, min(start + step, whole))
        yield inputs[batch].view(-1, length), targets[batch].view(-1, length)
    if whole < len(inputs):
        yield inputs[None, whole:], targets[None, whole:]
