"""The memories of a design: their shapes, the memory macros that fit them, and what is known of large ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flexcim_hw.silicon.liberty import Group, LibertyError, read_liberty

__all__ = [
    "LARGE",
    "SAMPLES",
    "MemoryMacro",
    "MemoryShape",
    "Placement",
    "extrapolated",
    "is_large",
    "place_memory",
    "read_memories",
]


LARGE = 2048
"""Most bits of a memory that is mapped as it is, if each read comes a cycle after its address."""

_DEPTHS = (32, 64)
_WIDTHS = (8, 16)

SAMPLES = tuple((depth, width) for depth in _DEPTHS for width in _WIDTHS)
"""Words and bits of the memories that are mapped in place of a large one."""


@dataclass(frozen=True)
class MemoryShape:
    """A memory of the design.

    Parameters
    ----------
    depth, width : int
        Words, and bits of a word.
    read_ports, write_ports : int
        How many there are of each.
    registered : bool
        Whether each read comes a cycle after its address, as a memory macro gives it.
    """

    depth: int
    width: int
    read_ports: int
    write_ports: int
    registered: bool


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


def is_large(shape: MemoryShape) -> bool:
    """Whether a memory is not mapped itself: nobody would make it of flip-flops, and it would take hours.

    Its area is that of four small memories with the same ports, carried on to its words and bits. Where the netlist is
    timed, a flip-flop stands at each of its pins, as at those of a memory macro, which take and give with the clock.
    """
    return (
        shape.registered
        and shape.read_ports == shape.write_ports == 1
        and shape.depth * shape.width > LARGE
        and shape.depth > _DEPTHS[-1]
        and shape.width > _WIDTHS[-1]
    )


def extrapolated(areas: Mapping[tuple[int, int], float], shape: MemoryShape) -> float:
    """The area of a large memory: linear in its words and in its bits, as decoders, words and bits are.

    Parameters
    ----------
    areas : mapping of (int, int) to float
        The area of each of `SAMPLES`.
    shape : MemoryShape
        The large memory.
    """

    def along_width(depth: int) -> float:
        return _line(shape.width, _WIDTHS, [areas[depth, width] for width in _WIDTHS])

    return _line(shape.depth, _DEPTHS, [along_width(depth) for depth in _DEPTHS])


def _line(place: int, places: tuple[int, int], values: list[float]) -> float:
    """The straight line through two values, continued."""
    return values[0] + (place - places[0]) * (values[1] - values[0]) / (places[1] - places[0])
