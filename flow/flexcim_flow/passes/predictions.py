"""What models read, and what of their answers they predict: the one place that tells kinds of models apart.

The measured choice compares predictions and differentiates labels that the model draws from them. What a label means is
of no account, so that it needs no loss of the model's own: a distribution over tokens or classes is enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from flexcim_flow.common.options import BATCH_IMAGES, BATCH_TOKENS

__all__ = ["Predictions", "batch_size", "read"]


@dataclass(frozen=True)
class Predictions:
    """Which answers of a model are its predictions.

    Parameters
    ----------
    causal : bool
        Whether each answer foretells the next token: what the last one of a sample foretells is not in the sample.
    mask : int, optional
        The token that stands where a masked language model is to predict; everywhere else it can copy what it reads. By
        default all answers count: each place of a text, and one for an image.
    """

    causal: bool
    mask: int | None = None

    @classmethod
    def of(cls, model: PreTrainedModel, mask: int | None = None) -> Predictions:
        """Those of a model."""
        return cls(model.can_generate(), mask)

    def among(self, samples: Tensor, logits: Tensor) -> Tensor:
        """The predictions among a model's answers.

        Parameters
        ----------
        samples : Tensor
            What the model read, [samples, length], int64, or [samples, channels, height, width], floating.
        logits : Tensor
            What it answered, [samples, length, vocabulary], or [samples, classes], floating.

        Returns
        -------
        Tensor
            float32, in the order of the samples: [samples, length - 1, vocabulary] if it is causal, [masked places,
            vocabulary] with a mask, otherwise as they are.
        """
        if self.causal:
            return logits[:, :-1].float()
        return (logits if self.mask is None else logits[(samples == self.mask).to(logits.device)]).float()

    def count(self, samples: Tensor) -> int:
        """The number of a model's predictions on samples [samples, length], int64, or [samples, ...] of images."""
        if self.causal:
            return samples[:, 1:].numel()
        if self.mask is not None:
            return int((samples == self.mask).sum())
        return samples.numel() if samples.ndim == 2 else len(samples)


def batch_size(samples: Tensor) -> int:
    """How many samples, [samples, length] or images [samples, channels, height, width], pass a model at once."""
    return max(1, BATCH_TOKENS // samples.shape[1]) if samples.ndim == 2 else BATCH_IMAGES


def read(model: PreTrainedModel, batch: Tensor) -> Any:
    """Let a model, or its base, read some samples, wherever they are; what it answers is as transformers gives it."""
    device = next(model.get_input_embeddings().parameters()).device
    # Encoders have no cache and pass what they do not know on to their blocks.
    options = {"use_cache": False} if hasattr(model.config, "use_cache") else {}
    return model(**{model.main_input_name: batch.to(device)}, **options)
