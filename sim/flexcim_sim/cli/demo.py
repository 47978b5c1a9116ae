"""``flexcim demo``: trained models are pruned, packed and run on generated hardware."""

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
from rich.text import Text

from flexcim.files import named_folder

if TYPE_CHECKING:
    from flexcim_sim.demo.report import Report
    from flexcim_sim.demo.tables import TextTable

__all__ = ["demo"]

_MODELS = Path(__file__).resolve().parents[3] / "models"
"""The repository's models and texts; an installed package has none."""

_DEFAULT_MODELS = ("llama-kjv", "mamba2-kjv")

_PIPED_WIDTH = 120
"""Width of the tables where nobody says how wide a line may be."""


def demo(
    models: Annotated[
        list[Path] | None,
        typer.Option(
            "--models", metavar="FOLDER...", help="Checkpoints in Hugging Face format. \\[default: the shipped ones]"
        ),
    ] = None,
    more_models: Annotated[
        # An option takes one value a time; so those that follow the first one of --models arrive as arguments.
        list[Path] | None,
        typer.Argument(metavar="FOLDER", help="Further checkpoints of --models.", show_default=False),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", parser=named_folder, metavar="FOLDER", help="Folder to write.")
    ] = Path("build/demo"),
    calibration: Annotated[
        Path | None, typer.Option(help="UTF-8 text to calibrate on. \\[default: the shipped one]")
    ] = None,
    evaluate: Annotated[
        Path | None, typer.Option(help="UTF-8 text to measure bits per byte on. \\[default: the shipped one]")
    ] = None,
    sparsity: Annotated[float, typer.Option(min=0, max=1, help="Least share of the weights to drop.")] = 0.6,
    seed: Annotated[int, typer.Option(help="Seed of the calibration samples.")] = 0,
    layers: Annotated[int, typer.Option(min=1, help="Layers of each model to simulate.")] = 4,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes at once. \\[default: as many as there are cores]")
    ] = None,
) -> None:
    """Prune trained models, run their layers on generated Verilog, and show it all in one page.

    The models are pruned by FLOW's defaults, and by the published method to compare with; what FLOW packed runs on the
    hardware. Writes report.html, report.json with all its numbers, the packed models and the Verilog. Exit code 1 if
    the hardware and the golden model or the cycle model disagree.

    Example: `flexcim demo --models models/gpt2-kjv models/llama-kjv`
    """
    print(f"seed {seed}", flush=True)
    # torch and Matplotlib take seconds to import; --help and mistyped options need neither.
    from flexcim_sim.demo.demo import PAGE, Options, run_demo, write_report

    options = Options(
        models=[*(models or ()), *(more_models or ())] or [_shipped(name, "--models") for name in _DEFAULT_MODELS],
        calibration=calibration or _shipped("text/calibration.txt", "--calibration"),
        heldout=evaluate or _shipped("text/heldout.txt", "--evaluate"),
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
    print(f"written: {output / PAGE} ({report.seconds:.0f} seconds)")
    if report.failures:
        for failure in report.failures:
            print(f"flexcim: {failure}", file=sys.stderr)
        raise typer.Exit(1)


def _shipped(name: str, option: str) -> Path:
    """A model or a text of the repository.

    Raises
    ------
    DemoError
        If there is none, as this is an installed package.
    """
    from flexcim_sim.demo.errors import DemoError

    path = _MODELS / name
    if not path.exists():
        raise DemoError(f"the demonstration has no {name} of its own outside the repository; name one by {option}")
    return path


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
    """Print the report's tables, a line that each model writes, and what is true of the hardware."""
    from flexcim_sim.demo.tables import layer_table, model_table, rtl_tables, text_table

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPED_WIDTH
    layers = [layer_table(report, model) for model in report.models]
    for table in (*layers, *rtl_tables(report), model_table(report), text_table(report)):
        with console.capture() as capture:
            console.print(_rich(table))
        # Tables without a right edge pad their lines, which a log keeps.
        print("\n".join(line.rstrip() for line in capture.get().split("\n")), end="")
    print(f"hardware: {report.verdict}")


def _rich(table: TextTable) -> Table:
    columns = [
        Column(name, justify="left" if index < table.words else "right", overflow="fold", no_wrap=index >= table.words)
        for index, name in enumerate(table.header)
    ]
    shown = Table(*columns, title=table.title, title_justify="left", box=SIMPLE)
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown
