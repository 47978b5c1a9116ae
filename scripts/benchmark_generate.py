#!/usr/bin/env python3
"""Measure how long the generator takes, how it grows with columns and macros, and what emitting each module once saves.

Every figure is the time of a process of its own, from its start to the Verilog's last byte, as `flexcim generate` takes
it; of several runs the shortest counts. Four times the columns, or the macros of an accelerator, are four times the
cells, but not one more module. The plain conversion is Amaranth's own, which writes every column anew.

    python scripts/benchmark_generate.py                    # all; the plain conversion alone takes minutes
    python scripts/benchmark_generate.py --skip-unmerged    # some ten seconds
    python scripts/benchmark_generate.py --preset board
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from flexcim.config.macro import PRESETS, preset

MOST_SECONDS = 5.0
MOST_BYTES = 300_000
MOST_GROWTH = 1.5
"""What the default instance is held to."""

MERGED = """
from flexcim_hw.verilog.macro import generate
text = generate(config).text
"""

ACCELERATOR = """
from flexcim.config.accelerator import AcceleratorConfig
from flexcim_hw.verilog.accelerator import generate_accelerator
text = generate_accelerator(AcceleratorConfig(macro=base, macros=factor)).text
"""

UNMERGED = """
from amaranth.back import verilog
from flexcim_hw.macro.macro import Macro
text = verilog.convert(
    Macro(config), name="flexcim_macro", platform=None, emit_src=False, strip_internal_attrs=True
)
"""


@dataclass(frozen=True)
class Measured:
    """The time of a conversion in seconds, and the size of its Verilog in bytes."""

    seconds: float
    size: int

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s, {self.size / 1000:.0f} kB"


def convert(conversion: str, name: str, factor: int) -> Measured:
    """Carry out a conversion of a preset with ``factor`` times the columns, or macros, in a fresh process."""
    script = (
        "from flexcim.config.macro import MacroConfig, preset\n"
        f"base, factor = preset({name!r}), {factor}\n"
        "config = MacroConfig.from_mapping({'columns': factor * base.columns}, base=base)\n"
        f"{conversion}print(len(text.encode()))\n"
    )
    start = time.perf_counter()
    run = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    return Measured(time.perf_counter() - start, int(run.stdout))


def shortest(conversion: str, name: str, factor: int, repeats: int) -> Measured:
    """The quickest of several conversions."""
    return min((convert(conversion, name, factor) for _ in range(repeats)), key=lambda measured: measured.seconds)


def main(
    preset_name: Annotated[str, typer.Option("--preset", help=f"One of {', '.join(PRESETS)}.")] = "flexcim",
    factor: Annotated[
        int, typer.Option(min=2, max=16, help="How many times the columns the larger macro has; how many macros.")
    ] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of the generator, of which the shortest counts.")] = 3,
    skip_unmerged: Annotated[
        bool, typer.Option("--skip-unmerged", help="Leave out the plain conversion, which takes minutes.")
    ] = False,
) -> None:
    """Measure how long the generator takes, how it grows with the columns, and what emitting each module once saves.

    Times are those of whole processes. Exit code 1 if the default instance takes more than 5 s or 300 kB, or four times
    the columns, or the macros of an accelerator, take more than 1.5 times as long.
    """
    config = preset(preset_name)
    cells = f"{config.sub_macros} x {config.rows} x {config.columns} cells"
    steps = TextColumn("{task.description}"), SpinnerColumn(finished_text=" "), TimeElapsedColumn()
    with Progress(*steps, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(f"{preset_name}, {cells}, {repeats} times")
        once = shortest(MERGED, preset_name, 1, repeats)
        progress.add_task(f"{factor} x the columns, {repeats} times")
        wide = shortest(MERGED, preset_name, factor, repeats)
        progress.add_task(f"accelerators of 1 and of {factor} macros, {repeats} times")
        single, several = (shortest(ACCELERATOR, preset_name, count, repeats) for count in (1, factor))
        if not skip_unmerged:
            progress.add_task("plain conversion, once, which takes minutes")
            plain = convert(UNMERGED, preset_name, 1)

    growth = wide.seconds / once.seconds
    macros_growth = several.seconds / single.seconds
    table = Table("", "time", "Verilog", "ratio of times", title=f"{preset_name}: {cells}")
    rows = [("each module once", once, ""), (f"{factor} x the columns", wide, f"{growth:.2f}")]
    rows += [
        ("accelerator, 1 macro", single, ""),
        (f"accelerator, {factor} macros", several, f"{macros_growth:.2f} to 1 macro"),
    ]
    if not skip_unmerged:
        rows.append(("plain conversion", plain, f"{plain.seconds / once.seconds:.0f}"))
    for label, measured, ratio in rows:
        table.add_row(label, f"{measured.seconds:.2f} s", f"{measured.size / 1000:.0f} kB", ratio)
    Console().print(table)

    missed = [
        f"{what} is {value:.2f}, more than {limit:g}"
        for what, value, limit in (
            ("the time in seconds", once.seconds, MOST_SECONDS),
            ("the size in bytes", once.size, MOST_BYTES),
            ("the growth of the time with the columns", growth, MOST_GROWTH),
            ("the growth of the time with the macros", macros_growth, MOST_GROWTH),
        )
        if value > limit
    ]
    if (preset_name, factor) == ("flexcim", 4) and missed:
        print(*missed, sep="\n", file=sys.stderr)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
