"""Area: what the cells of a mapped design take, block by block, its memories apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flexcim_hw.silicon.blocks import BLOCKS, STORAGE, block_of
from flexcim_hw.silicon.liberty import LibertyError
from flexcim_hw.silicon.library import CellLibrary
from flexcim_hw.silicon.memories import MemoryMacro, MemoryShape, Placement, extrapolated, is_large, place_memory
from flexcim_hw.silicon.synthesis import Netlist

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

    @property
    def total(self) -> float:
        """um^2 of both."""
        return self.logic + self.memories


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
    is_large : bool
        Whether its areas are carried on from small memories (`flexcim_hw.silicon.memories.is_large`).
    """

    block: str
    count: int
    shape: MemoryShape
    flip_flops: float
    latches: float | None
    macros: Placement | str
    is_large: bool


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
    def with_storage(self) -> float:
        """um^2 of logic and weight storage, the storage as flip-flops."""
        return self.logic + sum(block.memories for block in self.blocks if block.block == STORAGE)

    @property
    def total(self) -> float:
        """um^2 with the memories as flip-flops."""
        return self.logic + self.memory

    @property
    def gates(self) -> float:
        """Gate equivalents of the total."""
        return self.total / self.gate


def measure_area(netlist: Netlist, library: CellLibrary, macros: Sequence[MemoryMacro] = ()) -> Area:
    """Add up a mapped design.

    Parameters
    ----------
    netlist : Netlist
        The design.
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
    for name, count in netlist.counts().items():
        module, block = netlist.modules[name], block_of(name, netlist.top)
        if module["memory"] is None:
            logic[block] += count * _cells_area(module["cells"], library)
            continue
        shape = MemoryShape(**module["memory"])
        flip_flops, latches = _memory_areas(module, shape, library)
        memory[block] += count * flip_flops
        one = MemoryArea(
            block,
            count,
            shape,
            count * flip_flops,
            None if latches is None else count * latches,
            place_memory(shape, macros),
            is_large(shape),
        )
        memories[block, shape] = _joined(memories.get((block, shape)), one)
    blocks = tuple(BlockArea(block, logic[block], memory[block]) for block in BLOCKS if logic[block] or memory[block])
    ordered = sorted(memories.values(), key=lambda one: BLOCKS.index(one.block))
    return Area(blocks, tuple(ordered), library.gate)


def _memory_areas(module: Mapping[str, Any], shape: MemoryShape, library: CellLibrary) -> tuple[float, float | None]:
    """um^2 of a memory as flip-flops, and as latches or None."""
    if not is_large(shape):
        return _cells_area(module["cells"], library), _latches_area(module["latch_cells"], library)
    samples = {(sample["depth"], sample["width"]): sample for sample in module["samples"]}
    flip_flops = {place: _cells_area(sample["cells"], library) for place, sample in samples.items()}
    latches = {place: _latches_area(sample["latch_cells"], library) for place, sample in samples.items()}
    known = {place: area for place, area in latches.items() if area is not None}
    return extrapolated(flip_flops, shape), extrapolated(known, shape) if len(known) == len(latches) else None


def _joined(before: MemoryArea | None, one: MemoryArea) -> MemoryArea:
    if before is None:
        return one
    latches = None if before.latches is None or one.latches is None else before.latches + one.latches
    return replace(
        before, count=before.count + one.count, flip_flops=before.flip_flops + one.flip_flops, latches=latches
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
