"""Memories three ways: as flip-flops, as latches, and as memory macros of a library, where one fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flexcim_hw.silicon.liberty import Group, LibertyError, read_liberty
from flexcim_hw.silicon.shapes import MemoryShape

__all__ = ["MemoryMacro", "Placement", "place_memory", "read_memories"]


@dataclass(frozen=True)
class MemoryMacro:
    """A memory macro of a library.

    Parameters
    ----------
    name : str
        The cell.
    depth, width : int
        Words, and bits of a word.
    ports : int
        Ports, each of which reads or writes in a cycle.
    area : float
        um^2.
    """

    name: str
    depth: int
    width: int
    ports: int
    area: float


@dataclass(frozen=True)
class Placement:
    """A memory made of macros.

    Parameters
    ----------
    macro : MemoryMacro
        Of which.
    count : int
        How many of them, side by side for the width and one behind the other for the depth.
    """

    macro: MemoryMacro
    count: int

    @property
    def area(self) -> float:
        """um^2, without the multiplexers between macros that share the depth."""
        return self.count * self.macro.area


def read_memories(files: Sequence[Path]) -> tuple[MemoryMacro, ...]:
    """The memory macros in Liberty files.

    Raises
    ------
    LibertyError
        If a file cannot be read, is no Liberty, or holds no memory macro.
    """
    found = []
    for path in files:
        macros = [macro for cell in read_liberty(path).all("cell") if (macro := _macro(cell))]
        if not macros:
            raise LibertyError(f"{path}: holds no memory macro (a cell with a group 'memory' and an area)")
        found += macros
    return tuple(found)


def _macro(cell: Group) -> MemoryMacro | None:
    memory = next(iter(cell.all("memory")), None)
    if memory is None or cell.number("area") <= 0:
        return None
    # Each port has a data output of its own; an address beside that may be there for a self-test.
    ports = {read.attributes.get("address", "") for bus in cell.all("bus") for read in bus.all("memory_read")}
    depth, width = 1 << int(memory.number("address_width")), int(memory.number("word_width"))
    return MemoryMacro(cell.names[0], depth, width, max(1, len(ports)), cell.number("area"))


def place_memory(shape: MemoryShape, macros: Sequence[MemoryMacro]) -> Placement | str:
    """The macros of least area that a memory can be made of, or why there are none."""
    if not macros:
        return "no memory macros were given"
    if not shape.registered:
        return "it is read in the cycle of its address, which no macro can"
    ports = shape.read_ports + shape.write_ports
    fitting = [macro for macro in macros if macro.ports >= ports]
    if not fitting:
        return f"it has {ports} ports, the macros have at most {max(macro.ports for macro in macros)}"
    placements = [
        Placement(macro, -(-shape.width // macro.width) * -(-shape.depth // macro.depth)) for macro in fitting
    ]
    return min(placements, key=lambda placement: placement.area)
