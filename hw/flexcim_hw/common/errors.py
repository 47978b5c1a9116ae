"""Choice between the errors of one cycle."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

from amaranth.hdl import Mux, Value

__all__ = ["lowest_error"]


def lowest_error(errors: Iterable[Value]) -> Value:
    """The lowest of the error kinds that are there, 0 when there is none."""
    return reduce(lambda one, other: Mux((one != 0) & ((other == 0) | (one < other)), one, other), errors)
