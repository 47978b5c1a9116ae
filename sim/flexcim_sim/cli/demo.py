"""``flexcim demo``: two trained models are pruned, packed and run on generated hardware."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Column, Table

from flexcim.files import named_folder

if TYPE_CHECKING:
    from flexcim_sim.demo.report import Report
    from flexcim_sim.demo.tables import TextTable

__all__ = ["demo"]

_MODELS = Path(__file__).resolve().parents[3] / "models"
"""The repository's models; an installed package has none."""

_PIPED_WIDTH = 120
"""Width of the tables where nobody says how wide a line may be."""


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", parser=named_folder, metavar="FOLDER", help="Folder to write.")
    ] = Path("build/demo"),
    sparsity: Annotated[float, typer.Option(min=0, max=1, help="Least share of the weights to drop.")] = 0.6,
    seed: Annotated[int, typer.Option(help="Seed of the calibration samples.")] = 0,
    layers: Annotated[int, typer.Option(min=1, help="Layers of each model to simulate.")] = 4,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes at once. [default: as many as there are cores]")
    ] = None,
) -> None:
    """Prune two trained models by the published method, run their layers on generated Verilog, and write a report.

    Writes report.md, report.json, the figures, the packed models and the Verilog. Exit code 1 if the hardware and the
    golden model or the cycle model disagree.
    """
    print(f"seed {seed}", flush=True)
    # torch and Matplotlib take seconds to import; --help and mistyped options need neither.
    from flexcim_sim.demo.demo import DemoError, Options, run_demo, write_report

    if not _MODELS.is_dir():
        raise DemoError("the demonstration needs the repository's models, which an installed package does not have")
    options = Options(
        models=[_MODELS / "llama-kjv", _MODELS / "mamba2-kjv"],
        calibration=_MODELS / "text" / "calibration.txt",
        heldout=_MODELS / "text" / "heldout.txt",
        output=output,
        sparsity=sparsity,
        seed=seed,
        layers=layers,
        vectors=64,
        jobs=jobs or os.cpu_count() or 1,
    )
    with _steps() as steps:
        report = run_demo(options, expect_steps=steps.expect, done=steps.done)
    write_report(output, report)
    _show(report)
    print(f"written: {output / 'report.md'} ({report.seconds:.0f} seconds)")
    if report.failures:
        for failure in report.failures:
            print(f"flexcim: {failure}", file=sys.stderr)
        raise typer.Exit(1)


class _Steps:
    """Says on the standard error what is done: a line for each step, and on a terminal a bar below them."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("")
        self._begun = time.perf_counter()

    def expect(self, steps: int) -> None:
        """Say how many steps there will be."""
        self._progress.update(self._task, total=steps)

    def done(self, text: str) -> None:
        """Say that a step is done."""
        seconds = time.perf_counter() - self._begun
        self._progress.console.print(f"{seconds:5.0f} s  {text}", highlight=False, soft_wrap=True)
        self._progress.advance(self._task)


@contextmanager
def _steps() -> Iterator[_Steps]:
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield _Steps(progress)


def _show(report: Report) -> None:
    """Print the report's tables."""
    from flexcim_sim.demo.tables import layer_table, model_table, rtl_tables

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPED_WIDTH
    layers = [layer_table(report, model) for model in report.models]
    for table in (*layers, *rtl_tables(report), model_table(report)):
        with console.capture() as capture:
            console.print(_rich(table))
        # Tables without a right edge pad their lines, which a log keeps.
        print("\n".join(line.rstrip() for line in capture.get().split("\n")), end="")


def _rich(table: TextTable) -> Table:
    columns = [
        Column(name, justify="left" if index < table.words else "right", overflow="fold", no_wrap=index >= table.words)
        for index, name in enumerate(table.header)
    ]
    shown = Table(*columns, title=table.title, title_justify="left", box=SIMPLE)
    for row in table.rows:
        shown.add_row(*row)
    return shown
