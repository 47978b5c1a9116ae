#!/usr/bin/env python3
"""Measure area and clock of the comparison instances, and rewrite the tables of docs/measurements.md.

The default library is always measured; rows of other libraries stay as they are unless their files are given.

    python scripts/experiments_silicon.py
    python scripts/experiments_silicon.py --liberty one.lib.gz --liberty other.lib
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from flexcim.checkout import build_folder
from flexcim.cli.console import shown_steps
from flexcim.config.macro import preset
from flexcim.files import write_text
from flexcim_hw.silicon.instance import Instance, Method, measure_instance
from flexcim_hw.silicon.library import read_library
from flexcim_hw.silicon.report import ratios

PAGE = Path(__file__).resolve().parents[1] / "docs" / "measurements.md"
PRESETS = ("fixed-2-4", "flexcim", "wide", "two-lane", "double-broadcast", "dense")
"""Instances of equal cells; ratios are against the first."""
PERIOD = 5.0
INSTANCES = "| library | preset | memories apart, mm² |"
BLOCKS = "| library | block | share |"


def main(
    liberty: Annotated[
        list[Path] | None, typer.Option(help="A library of one file. May be given several times.")
    ] = None,
    clock: Annotated[bool, typer.Option(help="Measure the clock, too.")] = True,
) -> None:
    """Measure area and clock of the comparison instances, and rewrite the tables of docs/measurements.md."""
    libraries = [read_library()] + [read_library([path]) for path in liberty or ()]
    with shown_steps(len(libraries) * len(PRESETS) * (2 if clock else 1)) as steps:
        for library in libraries:
            method = Method(library, (), PERIOD, clock, build_folder("silicon-cache"))
            instances = [measure_instance(name, preset(name), method, steps.done) for name in PRESETS]
            text = PAGE.read_text(encoding="utf-8")
            text = with_rows(text, INSTANCES, library.name, instance_rows(library.name, instances))
            text = with_rows(text, BLOCKS, library.name, block_rows(library.name, instances[PRESETS.index("flexcim")]))
            write_text(PAGE, text)
            steps.tell(f"{library.name}: written to {PAGE}")


def instance_rows(library: str, instances: Sequence[Instance]) -> list[str]:
    """A row for each instance, against the first."""
    rows = []
    for one in instances:
        ratio = ratios(one, instances[0])
        clock = f"{one.timing.period:.2f}" if one.timing else "–"
        period = f"{ratio.period:.2f}" if ratio.period else "–"
        areas = (f"{one.area.logic / 1e6:.2f}", f"{ratio.logic:.3f}", f"{ratio.with_storage:.3f}", f"{ratio.total:.3f}")
        rows.append(row((library, f"`{one.name}`", *areas, clock, period)))
    return rows


def block_rows(library: str, one: Instance) -> list[str]:
    """A row for each block that has logic."""
    blocks = [block for block in one.area.blocks if block.logic]
    return [row((library, block.block, f"{block.logic / one.area.logic:.1%}")) for block in blocks]


def row(cells: Iterable[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def with_rows(text: str, heading: str, library: str, rows: Sequence[str]) -> str:
    """A page in whose table of this heading a library has these rows, in its place or behind the others."""
    lines = text.split("\n")
    first = next(index for index, line in enumerate(lines) if line.startswith(heading)) + 2
    last = next(index for index in range(first, len(lines)) if not lines[index].startswith("|"))
    before = lines[first:last]
    own = [index for index, line in enumerate(before) if line.startswith(f"| {library} |")]
    place = own[0] if own else len(before)
    kept = [line for index, line in enumerate(before) if index not in own]
    return "\n".join([*lines[:first], *kept[:place], *rows, *kept[place:], *lines[last:]])


if __name__ == "__main__":
    typer.run(main)
