"""The plans that a packed model can be run under."""

from __future__ import annotations

from enum import Enum

__all__ = ["Plan"]


class Plan(str, Enum):
    """Which of a nested model's weights take part; a model that is not nested has its denser plan only."""

    DENSER = "denser"
    """All: the base and the rest of each layer."""

    SPARSER = "sparser"
    """The base alone. Its weights are some of the denser plan's, so nothing is stored twice."""
