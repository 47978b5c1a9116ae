"""What a design will take before it is mapped: how many cells, and how much memory of the computer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Need", "Parts", "estimate_need"]

_CELLS_OF_LOGIC = 2.0
"""Cells for each bit that an operator, a multiplexer or a register drives."""

_CELLS_OF_MEMORY = 4.0
"""Cells for each bit of a memory: its flip-flop, the multiplexer that writes it and a share of those that read it."""

_BYTES_OF_CELL = 1300
"""What OpenSTA takes for a cell of the whole netlist."""

_BYTES_OF_MAPPED_CELL = 3500
"""What Yosys takes for a cell of a module, each of which it holds once, while it maps one."""


@dataclass(frozen=True)
class Parts:
    """What a module is made of before it is mapped.

    Parameters
    ----------
    logic : int
        Bits that its cells drive, memories apart.
    memory : int
        Bits of its memories.
    children : mapping of str to int
        How many of each module it holds.
    """

    logic: int
    memory: int
    children: Mapping[str, int]

    @property
    def cells(self) -> float:
        """About how many cells of a library it makes, those of its children apart."""
        return _CELLS_OF_LOGIC * self.logic + _CELLS_OF_MEMORY * self.memory


@dataclass(frozen=True)
class Need:
    """What a design will take.

    Parameters
    ----------
    cells : int
        About how many cells the whole netlist has.
    memory : int
        About how many bytes of memory it takes to make and to time it.
    """

    cells: int
    memory: int


def estimate_need(parts: Mapping[str, Parts], top: str) -> Need:
    """Estimate what a design takes.

    Parameters
    ----------
    parts : mapping of str to Parts
        Its modules.
    top : str
        The top module.
    """
    totals: dict[str, float] = {}

    def total(name: str) -> float:
        if name not in totals:
            children = parts[name].children.items()
            totals[name] = parts[name].cells + sum(count * total(child) for child, count in children)
        return totals[name]

    once = sum(module.cells for module in parts.values())
    cells = total(top)
    return Need(round(cells), round(max(cells * _BYTES_OF_CELL, once * _BYTES_OF_MAPPED_CELL)))
