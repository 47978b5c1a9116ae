"""Area: what the cells of a mapped design take, block by block, its memories apart."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flexcim_hw.silicon.blocks import BLOCKS, block_of
from flexcim_hw.silicon.liberty import LibertyError
from flexcim_hw.silicon.library import CellLibrary
from flexcim_hw.silicon.memories import MemoryMacro, MemoryShape, Placement, place_memory

__all__ = ["Area", "BlockArea", "MemoryArea", "measure_area"]


@dataclass(frozen=True)
class BlockArea:
    """What a block takes.

    Parameters
    ----------
    block : str
        Its name.
    logic : float
        um^2 of its cells without those that stand for memories.
    memories : float
        um^2 of its memories as flip-flops.
    """

    block: str
    logic: float
    memories: float


@dataclass(frozen=True)
class MemoryArea:
    """The memories of one shape in one block.

    Parameters
    ----------
    block : str
        The block.
    count : int
        How many there are.
    shape : MemoryShape
        Their shape.
    flip_flops, latches : float
        um^2 of all of them; latches are None if the library gives its latch no area.
    macros : Placement or str
        What one is made of in memory macros, or why there are none.
    """

    block: str
    count: int
    shape: MemoryShape
    flip_flops: float
    latches: float | None
    macros: Placement | str


@dataclass(frozen=True)
class Area:
    """What a design takes; nothing is placed, so there are no wires and no empty space in it.

    Parameters
    ----------
    blocks : tuple of BlockArea
        In the order in which data flow.
    memories : tuple of MemoryArea
        In the order of the blocks.
    gate : float
        um^2 of the library's smallest two-input NAND, the gate of *gate equivalents*.
    """

    blocks: tuple[BlockArea, ...]
    memories: tuple[MemoryArea, ...]
    gate: float

    @property
    def logic(self) -> float:
        """um^2 of all that stands for no memory."""
        return sum(block.logic for block in self.blocks)

    @property
    def memory(self) -> float:
        """um^2 of all memories as flip-flops."""
        return sum(block.memories for block in self.blocks)

    @property
    def total(self) -> float:
        """um^2 with the memories as flip-flops."""
        return self.logic + self.memory

    @property
    def gates(self) -> float:
        """Gate equivalents of the total."""
        return self.total / self.gate


def measure_area(
    modules: Mapping[str, Mapping[str, Any]], top: str, library: CellLibrary, macros: Sequence[MemoryMacro] = ()
) -> Area:
    """Add up a mapped design.

    Parameters
    ----------
    modules : mapping of str to mapping
        What `flexcim_hw.silicon.mapping.map_design` tells of each module.
    top : str
        The top module.
    library : CellLibrary
        The library that it was mapped to.
    macros : sequence of MemoryMacro
        What memories may be made of.

    Raises
    ------
    LibertyError
        If the library gives a cell that is used no area.
    """
    logic: dict[str, float] = defaultdict(float)
    memory: dict[str, float] = defaultdict(float)
    memories: dict[tuple[str, MemoryShape], MemoryArea] = {}
    for name, count in _instances(modules, top).items():
        module, block = modules[name], block_of(name, top)
        area = count * _cells_area(module["cells"], library)
        if module["memory"] is None:
            logic[block] += area
            continue
        memory[block] += area
        shape = MemoryShape(**{**module["memory"], "registered": bool(module["memory"]["registered"])})
        latches = _latches_area(module["latch_cells"], library)
        one = MemoryArea(
            block, count, shape, area, None if latches is None else count * latches, place_memory(shape, macros)
        )
        memories[block, shape] = _joined(memories.get((block, shape)), one)
    blocks = tuple(BlockArea(block, logic[block], memory[block]) for block in BLOCKS if logic[block] or memory[block])
    ordered = sorted(memories.values(), key=lambda one: BLOCKS.index(one.block))
    return Area(blocks, tuple(ordered), library.gate)


def _instances(modules: Mapping[str, Mapping[str, Any]], top: str) -> Counter[str]:
    """How often each module occurs in the whole design."""
    counts: Counter[str] = Counter()
    waiting = [(top, 1)]
    while waiting:
        name, times = waiting.pop()
        counts[name] += times
        waiting += [(child, times * count) for child, count in modules[name]["children"].items()]
    return counts


def _joined(before: MemoryArea | None, one: MemoryArea) -> MemoryArea:
    if before is None:
        return one
    latches = None if before.latches is None or one.latches is None else before.latches + one.latches
    return MemoryArea(
        one.block, before.count + one.count, one.shape, before.flip_flops + one.flip_flops, latches, one.macros
    )


def _cells_area(cells: Mapping[str, int], library: CellLibrary) -> float:
    for cell in cells:
        if library.areas.get(cell, 0) <= 0:
            raise LibertyError(f"{library.name}: the cell {cell}, which the netlist has, has no area")
    return sum(count * library.areas[cell] for cell, count in cells.items())


def _latches_area(cells: Mapping[str, int], library: CellLibrary) -> float | None:
    """um^2, or None where the library has no figure: osu018 gives its latch the area 0."""
    if any(library.areas.get(cell, 0) <= 0 for cell in cells):
        return None
    return _cells_area(cells, library)
