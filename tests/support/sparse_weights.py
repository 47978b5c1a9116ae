"""Random weights that keep a pattern, for the tests of the slot format and what is built on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flexcim.config.pattern import Pattern


def random_weights(
    rng: np.random.Generator, outputs: int, inputs: int, pattern: Pattern, bits: int = 8, fill: float = 0.8
) -> NDArray[np.int8]:
    """Weights int8 [outputs, inputs] with at most n non-zeros in each block, the extremes of ``bits`` bits among them.

    Each of a block's n places is used with the probability ``fill``, so full, part-filled and empty blocks all occur.
    """
    limit = 1 << (bits - 1)
    weights = rng.integers(-limit, limit, size=(outputs, inputs), dtype=np.int8)
    extremes = rng.random(weights.shape) < 0.1
    weights[extremes] = rng.choice(np.array([-limit, limit - 1], np.int8), size=int(extremes.sum()))
    for output in range(outputs):
        for start in range(0, inputs, pattern.m):
            block = weights[output, start : start + pattern.m]
            places = rng.permutation(len(block))[: pattern.n]
            dropped = np.ones(len(block), bool)
            dropped[places[rng.random(len(places)) < fill]] = False
            block[dropped] = 0
    return weights


def random_parts(
    rng: np.random.Generator, outputs: int, inputs: int, patterns: Sequence[Pattern], bits: int = 8
) -> list[NDArray[np.int8]]:
    """Weights of a layer's parts, each int8 [outputs, inputs] with its own pattern, no place being in two of them."""
    parts: list[NDArray[np.int8]] = []
    for pattern in patterns:
        weights = random_weights(rng, outputs, inputs, pattern, bits)
        for other in parts:
            weights[other != 0] = 0
        parts.append(weights)
    return parts
