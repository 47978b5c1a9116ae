"""How much of the calibration each measurement of the search takes: shares of it, so that more samples make a better
search, too, which takes its share of the time."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from flexcim_flow.common.options import DEFAULT_LENGTH, MEASURED_IMAGES
from flexcim_flow.model.blocks import LinearLayer

__all__ = ["FEWEST_TOKENS", "costed", "judged", "searched"]

FEWEST_TOKENS = 16 * DEFAULT_LENGTH
"""What calibration samples of fewer tokens count as, half of the default: shares of less would be too few tokens to
tell patterns apart, 1024 for costs and 1536 for judgements."""

_TOKENS_FOR_AN_INPUT = 8
"""Tokens for each input of the widest layer that second moments are taken from while patterns are compared."""


def searched(samples: Tensor, units: Sequence[Sequence[LinearLayer]]) -> Tensor:
    """The first of some samples, [samples, length], whose statistics are enough to choose by, if not to prune by.

    Of images, [samples, channels, height, width], all: only the model knows how many tokens it makes of one, and to
    prune takes a pass of them all anyway.
    """
    if samples.ndim != 2:
        return samples
    widest = max(layer.shape[1] for unit in units for layer in unit)
    return _first(samples, _TOKENS_FOR_AN_INPUT * widest)


def costed(samples: Tensor) -> Tensor:
    """The first of some samples, [samples, length] or images, that costs are measured on: an eighth of the tokens.

    They are whole samples, as a model may do something else at later places of a text.
    """
    return _first(samples, max(FEWEST_TOKENS, samples.numel()) // 8)


def judged(samples: Tensor, guard: Tensor) -> Tensor:
    """The first of the samples that were set apart, [samples, length] or images, that whole assignments are compared
    on: as many tokens as three sixteenths of the calibration samples, if there are as many."""
    return _first(guard, 3 * max(FEWEST_TOKENS, samples.numel()) // 16)


def _first(samples: Tensor, tokens: int) -> Tensor:
    """The first of some samples, [samples, length], with so many tokens, if there are as many.

    Of images, [samples, channels, height, width], the first `flexcim_flow.common.options.MEASURED_IMAGES`.
    """
    if samples.ndim != 2:
        return samples[:MEASURED_IMAGES]
    return samples[: -(-tokens // samples.shape[1])]
