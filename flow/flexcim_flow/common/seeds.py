"""Sources of chance that a seed gives."""

from __future__ import annotations

import torch

from flexcim.errors import FlexCiMError

__all__ = ["SeedError", "check_seed", "seeded"]

_SEEDS = 2**64
"""PyTorch's seeds have 64 bits."""


class SeedError(FlexCiMError):
    """A seed that is none; the message is one sentence."""


def check_seed(seed: int) -> None:
    """Make sure that a seed is one.

    Raises
    ------
    SeedError
        If it has more than 64 bits, or is negative.
    """
    if not 0 <= seed < _SEEDS:
        raise SeedError(f"a seed must be between 0 and {_SEEDS - 1}, not {seed}")


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU that always draws the same for a seed.

    Raises
    ------
    SeedError
        If the seed has more than 64 bits, or is negative.
    """
    check_seed(seed)
    return torch.Generator().manual_seed(seed)
