"""The memories of a design: their shapes, and what is known of large ones from small ones like them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["LARGE", "SAMPLES", "MemoryShape", "extrapolated", "is_large"]

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
