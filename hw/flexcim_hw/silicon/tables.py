"""What was measured, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Column, Table

from flexcim_hw.silicon.instance import Instance, Method
from flexcim_hw.silicon.memories import Placement
from flexcim_hw.silicon.report import NO_WIRES, ratios
from flexcim_hw.silicon.timing import Timing

__all__ = ["show_instances"]


def show_instances(console: Console, instances: Sequence[Instance], method: Method, clock_missing: str | None) -> None:
    """Print the tables of each instance, then, of several, how they compare.

    Parameters
    ----------
    console : Console
        Where to.
    instances : sequence of Instance
        What was measured.
    method : Method
        How.
    clock_missing : str or None
        Why no clock was measured.
    """
    library = method.library
    for one in instances:
        console.print(_blocks(one, library.gate))
        console.print(_memories(one))
        if one.timing is not None:
            console.print(_path(one.name, one.timing))
            _say(console, _clock(one.name, one.timing, method.period))
    if len(instances) > 1:
        console.print(_comparison(instances))
    notes = [
        f"{library.name}, {library.corner}; {NO_WIRES}",
        f"a gate equivalent is the library's smallest two-input NAND, {library.gate:g} µm²",
    ]
    if clock_missing:
        notes.append(f"clock: {clock_missing}")
    if any(memory.is_large for one in instances for memory in one.area.memories):
        notes.append(
            "~ carried on from small memories like it; where the clock is measured, flip-flops stand at its pins"
        )
    if any(memory.latches is None for one in instances for memory in one.area.memories):
        notes.append("memories as latches: the library gives a cell that they need no area")
    for note in notes:
        _say(console, note)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _blocks(one: Instance, gate: float) -> Table:
    names = ("logic, µm²", "gates", "share", "memories, µm²", "gates")
    table = Table(
        "block",
        *(Column(name, justify="right") for name in names),
        title=f"{one.name}: area, memories as flip-flops (no wires)",
        title_justify="left",
    )
    area = one.area
    for block in area.blocks:
        table.add_row(block.block, *_areas(block.logic, gate, area.logic), *_areas(block.memories, gate))
    table.add_section()
    table.add_row("all", *_areas(area.logic, gate, area.logic), *_areas(area.memory, gate))
    table.add_row("with memories", f"{area.total:,.0f}", f"{area.gates:,.0f}")
    return table


def _areas(area: float, gate: float, whole: float | None = None) -> list[str]:
    """um^2, gate equivalents and, of a whole, the share; blanks where nothing is."""
    if not area:
        return [""] * (2 if whole is None else 3)
    return [f"{area:,.0f}", f"{area / gate:,.0f}", *([] if whole is None else [f"{area / whole:.1%}"])]


def _memories(one: Instance) -> Table:
    table = Table(
        "block",
        *(
            Column(name, justify="right")
            for name in ("count", "words × bits", "reads", "flip-flops, µm²", "latches, µm²")
        ),
        Column("macros, µm²"),
        title=f"{one.name}: memories, three ways (no wires)",
        title_justify="left",
    )
    for memory in one.area.memories:
        mark = "~" if memory.is_large else ""
        shape = memory.shape
        if isinstance(memory.macros, Placement):
            each = memory.macros
            macros = f"{memory.count * each.area:,.0f}: {each.count} × {each.macro.name} each"
        else:
            macros = memory.macros
        table.add_row(
            memory.block,
            str(memory.count),
            f"{shape.depth} × {shape.width}",
            f"{shape.read_ports}{', clocked' if shape.registered else ''}",
            f"{mark}{memory.flip_flops:,.0f}",
            "" if memory.latches is None else f"{mark}{memory.latches:,.0f}",
            macros,
        )
    return table


def _clock(name: str, timing: Timing, period: float) -> str:
    met = "met" if timing.slack >= 0 else "not met"
    frequency = f"{timing.period:.3f} ns, {1000 / timing.period:,.0f} MHz"
    return f"{name}: clock {frequency} (no wires); {period:g} ns are {met}, slack {timing.slack:+.3f} ns"


def _path(name: str, timing: Timing) -> Table:
    table = Table(
        Column("instance", overflow="fold"),
        "module",
        "block",
        *(Column(name, justify="right") for name in ("cells", "ns")),
        title=f"{name}: slowest path (no wires)",
        title_justify="left",
    )
    for stage in timing.path:
        table.add_row(stage.instance or "(top)", stage.module, stage.block, str(stage.cells), f"{stage.delay:.3f}")
    table.add_section()
    table.add_row("setup", "", "", "", f"{timing.period - sum(stage.delay for stage in timing.path):.3f}")
    return table


def _comparison(instances: Sequence[Instance]) -> Table:
    first = instances[0]
    names = ("memories apart, mm²", "with storage", "all, mm²", "clock, ns")
    table = Table(
        "instance",
        *(Column(name, justify="right") for pair in names for name in (pair, "×")),
        title=f"all instances, and as multiples of {first.name} (no wires; memories as flip-flops)",
        title_justify="left",
    )
    for one in instances:
        ratio = ratios(one, first)
        clock = "" if one.timing is None else f"{one.timing.period:.3f}"
        table.add_row(
            one.name,
            f"{one.area.logic / 1e6:,.3f}",
            f"{ratio.logic:.3f}",
            f"{one.area.with_storage / 1e6:,.3f}",
            f"{ratio.with_storage:.3f}",
            f"{one.area.total / 1e6:,.3f}",
            f"{ratio.total:.3f}",
            clock,
            "" if ratio.period is None else f"{ratio.period:.3f}",
        )
    return table
