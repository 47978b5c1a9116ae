"""The steps of a run, counted for whoever shows its progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Progress", "Steps"]

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called before each step with its name, the steps that are done, and the number of all steps."""


class Steps:
    """Counts the steps of a run.

    Parameters
    ----------
    progress : Progress or None
        Told about each step.

    Attributes
    ----------
    total : int
        The number of all steps; 1 until it is known.
    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._begun = 0
        self.total = 1

    def begin(self, name: str) -> None:
        """Say that the next step begins."""
        if self._progress is not None:
            self._progress(name, self._begun, self.total)
        self._begun += 1

    def skip(self, steps: int) -> None:
        """Count steps that an earlier process has taken."""
        self._begun += steps
