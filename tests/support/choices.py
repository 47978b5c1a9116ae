"""Problems for selectors: units with names and shapes, and random ones."""

from __future__ import annotations

import numpy as np

from flexcim_flow.choice.problem import Unit

__all__ = ["random_units", "unit"]


def unit(*shapes: tuple[int, int], name: str = "block") -> Unit:
    """A unit of layers of these shapes."""
    return Unit(name, tuple(f"{name}.{index}" for index in range(len(shapes))), shapes)


def random_units(rng: np.random.Generator, count: int, *, equal: bool = False) -> list[Unit]:
    """Units of equal shapes, or of shapes that differ and leave remainders."""

    def shapes() -> list[tuple[int, int]]:
        return [(int(rng.integers(1, 40)), int(rng.integers(1, 70))) for _ in range(rng.integers(1, 4))]

    same = shapes()
    return [unit(*(same if equal else shapes())) for _ in range(count)]
