"""Weights with inputs that depend on each other, for the tests of updates and sweeps."""

from __future__ import annotations

import torch


def data(outputs: int, inputs: int, tokens: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights, and correlated inputs [tokens, inputs], in float64."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    seen = torch.randn(tokens, inputs, generator=generator, dtype=torch.float64) @ mixing
    return torch.randn(outputs, inputs, generator=generator, dtype=torch.float64), seen


def moments(seen: torch.Tensor) -> torch.Tensor:
    return seen.T @ seen / len(seen)
