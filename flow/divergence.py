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

from flow.options import BATCH_TOKENS

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
        [samples, length], int64.
    tokens : Tensor
        The likeliest next tokens after each but the last, [samples, length - 1, kept], int32.
    logs : Tensor
        The logarithms of their probabilities, the same shape, float32.
    """

    samples: Tensor
    tokens: Tensor
    logs: Tensor

    @classmethod
    def of(cls, model: PreTrainedModel, samples: Tensor) -> Reference:
        """Ask the model as it is."""
        return cls.from_answers(samples, _answers(model, samples))

    @classmethod
    def from_answers(cls, samples: Tensor, answers: Iterable[Tensor]) -> Reference:
        """From what the model answered, batch by batch of the samples: logits, [some samples, length, vocabulary]."""
        tokens, logs = [], []
        for logits in answers:
            predicted = logits[:, :-1].float().log_softmax(dim=-1)
            best = predicted.topk(min(KEPT_TOKENS, predicted.shape[-1]), dim=-1)
            tokens.append(best.indices.int().cpu())
            logs.append(best.values.cpu())
        return cls(samples, torch.cat(tokens), torch.cat(logs))

    def split(self, size: int) -> Iterator[Reference]:
        """The same in batches of samples."""
        return (self._part(start, size) for start in range(0, len(self.samples), size))

    def _part(self, start: int, size: int) -> Reference:
        some = slice(start, start + size)
        return Reference(self.samples[some], self.tokens[some], self.logs[some])

    def from_logits(self, logits: Tensor) -> Tensor:
        """Divergence of other predictions of the samples from these, KL(these || others), summed over their tokens.

        Parameters
        ----------
        logits : Tensor
            [samples, length - 1, vocabulary], floating.

        Returns
        -------
        Tensor
            Nats, a scalar that gradients go through.
        """
        logs = self.logs.to(logits.device)
        others = logits.float().log_softmax(dim=-1).gather(-1, self.tokens.to(logits.device).long())
        nats = (logs.exp() * (logs - others)).sum()
        if self.tokens.shape[-1] < logits.shape[-1]:
            rest, other = ((1 - some.exp().sum(dim=-1)).clamp(min=_LEAST) for some in (logs, others))
            nats = nats + (rest * (rest / other).log()).sum()
        return nats

    def mean_divergence(self, answers: Iterable[Tensor]) -> float:
        """Mean divergence of other predictions of all the samples from these, nats per token.

        Parameters
        ----------
        answers : iterable of Tensor
            Logits, batch by batch of the samples, [some samples, length, vocabulary], floating.
        """
        nats, done = 0.0, 0
        for logits in answers:
            nats += self._part(done, len(logits)).from_logits(logits[:, :-1]).item()
            done += len(logits)
        return nats / self.tokens[..., 0].numel()


def divergence(model: PreTrainedModel, reference: Reference) -> float:
    """Mean divergence of a model's predictions from a reference's, nats per token."""
    return reference.mean_divergence(_answers(model, reference.samples))


def _answers(model: PreTrainedModel, samples: Tensor) -> Iterator[Tensor]:
    """Logits of a model as it is, batch by batch."""
    for batch in samples.split(max(1, BATCH_TOKENS // samples.shape[1])):
        with torch.no_grad():
            logits: Tensor = model(input_ids=batch, use_cache=False).logits
        yield logits
