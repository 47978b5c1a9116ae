"""The two plans of a nested model, under either of which it can be run."""

from __future__ import annotations

from enum import Enum

__all__ = ["NestedPlan"]


class NestedPlan(str, Enum):
    """Which of a nested model's weights take part; a model that is not nested has its denser plan only."""

    DENSER = "denser"
    """All: the base and the rest of each layer."""

    SPARSER = "sparser"
    """The base alone. Its weights are some of the denser plan's, so nothing is stored twice."""
