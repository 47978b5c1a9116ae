"""How far a changed model's predictions are from those of the model as it was.

The loss on a text would say the same in the limit of endless text. But a text has one label for each token, whose
chance hides small differences between models, and a model is over-fitted to the labels of the text that it was trained
on, which calibration text often is a part of. The divergence averages over all labels by the model's own probabilities.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from flexcim_flow.passes.predictions import Predictions, batch_size, read

__all__ = ["KEPT_TOKENS", "Reference", "divergence"]

KEPT_TOKENS = 256
"""Likeliest tokens of which a probability each is remembered: it bounds the memory to 2 KiB for each token of the
samples, and is all of a byte-level model's. All other tokens count as one, which can only lower the divergence."""

_LEAST = 1e-9
"""Probability below which the rest counts as impossible: float32 cannot tell it from rounding."""


@dataclass(frozen=True, eq=False)
class Reference:
    """What a model predicts on some samples.

    Parameters
    ----------
    samples : Tensor
        [samples, length], int64, or images [samples, channels, height, width], float32.
    predictions : Predictions
        Which of the model's answers are predictions.
    tokens : Tensor
        The likeliest tokens, or classes, of each prediction, [predictions, kept], int32.
    logs : Tensor
        The logarithms of their probabilities, the same shape, float32.
    """

    samples: Tensor
    predictions: Predictions
    tokens: Tensor
    logs: Tensor

    @classmethod
    def of(cls, model: PreTrainedModel, samples: Tensor, mask: int | None = None) -> Reference:
        """Ask the model as it is, with the token that masks places if there is one (`Predictions`)."""
        return cls.from_answers(samples, Predictions.of(model, mask), _answers(model, samples))

    @classmethod
    def from_answers(cls, samples: Tensor, predictions: Predictions, answers: Iterable[Tensor]) -> Reference:
        """From what the model answered, batch by batch of the samples: logits, [some samples, length, vocabulary] or
        [some samples, classes]."""
        tokens, logs, done = [], [], 0
        for logits in answers:
            batch = samples[done : done + len(logits)]
            predicted = predictions.among(batch, logits).log_softmax(dim=-1).flatten(0, -2)
            best = predicted.topk(min(KEPT_TOKENS, predicted.shape[-1]), dim=-1)
            tokens.append(best.indices.int().cpu())
            logs.append(best.values.cpu())
            done += len(logits)
        return cls(samples, predictions, torch.cat(tokens), torch.cat(logs))

    def split(self) -> Iterator[Reference]:
        """The same in batches of samples that pass a model at once."""
        size = batch_size(self.samples)
        return (self._part(start, size) for start in range(0, len(self.samples), size))

    def _part(self, start: int, size: int) -> Reference:
        batch = self.samples[start : start + size]
        first = self.predictions.count(self.samples[:start])
        some = slice(first, first + self.predictions.count(batch))
        return Reference(batch, self.predictions, self.tokens[some], self.logs[some])

    def from_logits(self, logits: Tensor) -> Tensor:
        """Divergence of other predictions on the samples from these, KL(these || others), summed over them.

        Parameters
        ----------
        logits : Tensor
            What a model answers to the samples, [samples, length, vocabulary] or [samples, classes], floating.

        Returns
        -------
        Tensor
            Nats, a scalar that gradients go through.
        """
        logs = self.logs.to(logits.device)
        predicted = self.predictions.among(self.samples, logits).log_softmax(dim=-1).flatten(0, -2)
        others = predicted.gather(-1, self.tokens.to(logits.device).long())
        nats = (logs.exp() * (logs - others)).sum()
        if self.tokens.shape[-1] < logits.shape[-1]:
            rest, other = ((1 - some.exp().sum(dim=-1)).clamp(min=_LEAST) for some in (logs, others))
            nats = nats + (rest * (rest / other).log()).sum()
        return nats

    def mean_divergence(self, answers: Iterable[Tensor]) -> float:
        """Mean divergence of other predictions on all the samples from these, nats per prediction.

        Parameters
        ----------
        answers : iterable of Tensor
            Logits, batch by batch of the samples, [some samples, length, vocabulary] or [some samples, classes],
            floating.
        """
        nats, done = 0.0, 0
        for logits in answers:
            nats += self._part(done, len(logits)).from_logits(logits).item()
            done += len(logits)
        return nats / len(self.tokens)


def divergence(model: PreTrainedModel, reference: Reference) -> float:
    """Mean divergence of a model's predictions from a reference's, nats per prediction."""
    return reference.mean_divergence(_answers(model, reference.samples))


def _answers(model: PreTrainedModel, samples: Tensor) -> Iterator[Tensor]:
    """Logits of a model as it is, batch by batch."""
    for batch in samples.split(batch_size(samples)):
        with torch.no_grad():
            logits: Tensor = read(model, batch).logits
        yield logits
