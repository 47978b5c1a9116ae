"""Zero-shot multiple choice: does the model find the right ending of a text the most likely one?"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from flexcim.errors import FlexCiMError
from flexcim_flow.common.options import BATCH_TOKENS
from flexcim_flow.samples.text import read_text, tokenize

__all__ = ["MultipleChoice", "Question", "QuestionError", "answer", "read_questions"]


class QuestionError(FlexCiMError):
    """A file of questions that cannot be used; the message is one sentence that names the line."""


@dataclass(frozen=True)
class Question:
    """A question with several answers, one of which is right.

    Parameters
    ----------
    context : str
        What the model reads first.
    choices : tuple of str
        The endings to choose from, at least two, each with the space that belongs before it.
    answer : int
        Index of the right one.
    """

    context: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class MultipleChoice:
    """How many questions a model answered right.

    Parameters
    ----------
    questions : int
        How many there were.
    likeliest : int
        Questions whose right choice was the likeliest one.
    likeliest_by_byte : int
        The same with log-likelihoods divided by the choices' UTF-8 bytes, which does not favour short ones.
    """

    questions: int
    likeliest: int
    likeliest_by_byte: int

    @property
    def accuracy(self) -> float:
        """Share of questions whose right choice was the likeliest."""
        return self.likeliest / self.questions

    @property
    def accuracy_by_byte(self) -> float:
        """Share of questions whose right choice was the likeliest by byte."""
        return self.likeliest_by_byte / self.questions

    def standard_error(self, accuracy: float) -> float:
        """Standard error of one of the accuracies, sqrt(p (1 - p) / (N - 1)); NaN for a single question."""
        if self.questions == 1:
            return math.nan
        return math.sqrt(accuracy * (1 - accuracy) / (self.questions - 1))


def read_questions(path: str | os.PathLike[str]) -> tuple[Question, ...]:
    """Read a JSONL file: on each line an object with ``context``, ``choices`` and ``answer``; empty lines are skipped.

    Raises
    ------
    FlexCiMError
        If the file cannot be read, or a line is not such an object.
    """
    questions = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            try:
                questions.append(_question(json.loads(line)))
            except json.JSONDecodeError as error:
                raise QuestionError(f"{Path(path)}: line {number} is no JSON ({error.msg})") from None
            except QuestionError as error:
                raise QuestionError(f"{Path(path)}: line {number} {error}") from None
    return tuple(questions)


def _question(record: Any) -> Question:
    """A question from what JSON made of it; QuestionError continues 'line 3 ...'."""
    fields = {"context", "choices", "answer"}
    if not isinstance(record, dict) or set(record) != fields:
        found = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise QuestionError(f"must be an object with answer, choices and context, not {found}")
    context, choices, answer = record["context"], record["choices"], record["answer"]
    if not isinstance(context, str) or not context:
        raise QuestionError(f"must have a context of at least one character, not {context!r}")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(text, str) and text for text in choices):
        raise QuestionError(f"must have a list of at least two texts as choices, not {choices!r}")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise QuestionError(f"must have the index of one of its {len(choices)} choices as answer, not {answer!r}")
    return Question(context, tuple(choices), answer)


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    context: int | None,
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> MultipleChoice:
    """Let a causal language model answer questions without an example.

    Each choice is appended to its context, and the log-likelihood of the choice's tokens decides, as in the common
    harnesses. Where a text is longer than the model's context, its beginning is left out.

    Parameters
    ----------
    model : PreTrainedModel
        The model, in evaluation mode.
    tokenizer : PreTrainedTokenizerBase
        Its tokenizer.
    questions : sequence of Question
        At least one.
    context : int or None
        Tokens that the model sees at once, if they are limited.
    batch_tokens : int
        About how many tokens pass the model at once.

    Raises
    ------
    QuestionError
        If a choice has no token of its own, or more than the model sees at once.
    """
    texts, counts = [], []
    for number, question in enumerate(questions, start=1):
        before = len(tokenize(question.context, tokenizer))
        for choice in question.choices:
            # Tokenised as one text, as tokens may reach over the edge.
            tokens = tokenize(question.context + choice, tokenizer)
            count = len(tokens) - before
            if count < 1 or (context is not None and count > context):
                limit = "at least 1" if context is None else f"1 to {context}"
                raise QuestionError(f"choice {choice!r} of question {number} must have {limit} tokens, not {count}")
            # The last token is only predicted, so the model need not see it.
            texts.append(tokens if context is None else tokens[-context - 1 :])
            counts.append(count)
    sums = iter(_log_likelihoods(model, texts, counts, batch_tokens))
    likeliest = by_byte = 0
    for question in questions:
        found = [next(sums) for _ in question.choices]
        sizes = [len(choice.encode()) for choice in question.choices]
        likeliest += _argmax(found) == question.answer
        by_byte += _argmax([value / size for value, size in zip(found, sizes, strict=True)]) == question.answer
    return MultipleChoice(len(questions), likeliest, by_byte)


def _argmax(values: Sequence[float]) -> int:
    """Index of the largest value, of equals the first."""
    return max(range(len(values)), key=values.__getitem__)


def _log_likelihoods(
    model: PreTrainedModel, texts: Sequence[Tensor], counts: Sequence[int], batch_tokens: int
) -> list[float]:
    """Log-likelihood of the last tokens of each text, as many as its count says, in nats."""
    sums = [0.0] * len(texts)
    # Texts of about the same length share a batch, so that little of it is padding.
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    while order:
        size = max(1, batch_tokens // len(texts[order[-1]]))
        batch, order = order[-size:], order[:-size]
        # The padding stands behind the text, where a causal model does not see it.
        tokens = pad_sequence([texts[index] for index in batch], batch_first=True).to(model.device)
        with torch.no_grad():
            logits = model(input_ids=tokens[:, :-1], use_cache=False).logits.float()
        losses = cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        for row, index in enumerate(batch):
            end = len(texts[index]) - 1
            sums[index] = -losses[row, end - counts[index] : end].sum(dtype=torch.float64).item()
    return sums
