"""How far a changed model's predictions are from those of the model as it was.

The loss on a text would say the same in the limit of endless text. But a text has one label for each token, whose
chance hides small differences between models, and a model is over-fitted to the labels of the text that it was trained
on, which calibration text often is a part of. The divergence averages over all labels by the model's own probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from flow.options import BATCH_TOKENS

__all__ = ["KEPT_TOKENS", "Reference", "divergence"]

KEPT_TOKENS = 256
"""Likeliest tokens of which a probability each is remembered: it bounds the memory, and is all of a byte-level model's.
All other tokens count as one, which can only lower the divergence."""

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
        tokens, logs = [], []
        with torch.no_grad():
            for batch in samples.split(max(1, BATCH_TOKENS // samples.shape[1])):
                logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()
                best = logits.log_softmax(dim=-1).topk(min(KEPT_TOKENS, logits.shape[-1]), dim=-1)
                tokens.append(best.indices.int().cpu())
                logs.append(best.values.cpu())
        return cls(samples, torch.cat(tokens), torch.cat(logs))

    def split(self, size: int) -> Iterator[Reference]:
        """The same in batches of samples."""
        parts = (part.split(size) for part in (self.samples, self.tokens, self.logs))
        return (Reference(*part) for part in zip(*parts, strict=True))

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


def divergence(model: PreTrainedModel, reference: Reference) -> float:
    """Mean divergence of a model's predictions from a reference's, nats per token."""
    nats = 0.0
    with torch.no_grad():
        for part in reference.split(max(1, BATCH_TOKENS // reference.samples.shape[1])):
            nats += part.from_logits(model(input_ids=part.samples, use_cache=False).logits[:, :-1]).item()
    return nats / reference.tokens[..., 0].numel()
