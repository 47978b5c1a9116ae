"""``flexcim demo``: trained models are pruned, packed and run on generated hardware."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.table import Column, Table
from rich.text import Text

from flexcim.checkout import checkout
from flexcim.cli.console import shown_steps, table_console
from flexcim.files import named_folder

if TYPE_CHECKING:
    from flexcim_sim.demo.report import Report
    from flexcim_sim.demo.tables import TextTable

__all__ = ["demo"]

_DEFAULT_MODELS = ("llama-kjv", "mamba2-kjv")


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
    from flexcim_sim.demo.demo import CALIBRATION_TEXT, HELDOUT_TEXT, PAGE, Options, run_demo, write_report

    options = Options(
        models=[*(models or ()), *(more_models or ())] or _shipped_models(),
        calibration=calibration or CALIBRATION_TEXT,
        heldout=evaluate or HELDOUT_TEXT,
        output=output,
        sparsity=sparsity,
        seed=seed,
        layers=layers,
        vectors=64,
        jobs=jobs or os.cpu_count() or 1,
    )
    begun = time.perf_counter()
    with shown_steps() as steps:

        def done(text: str) -> None:
            steps.tell(f"{time.perf_counter() - begun:5.0f} s  {text}")
            steps.done()

        report = run_demo(options, expect_steps=steps.expect, done=done)
    write_report(output, report)
    _show(report)
    print(f"written: {output / PAGE} ({report.seconds:.0f} seconds)")
    if report.failures:
        for failure in report.failures:
            print(f"flexcim: {failure}", file=sys.stderr)
        raise typer.Exit(1)


def _shipped_models() -> list[Path]:
    """The repository's models.

    Raises
    ------
    DemoError
        If this is an installed package, which has none.
    """
    from flexcim_sim.demo.errors import DemoError

    root = checkout()
    if root is None:
        raise DemoError("the demonstration's own models are in the repository alone; name checkpoints by --models")
    return [root / "models" / name for name in _DEFAULT_MODELS]


def _show(report: Report) -> None:
    """Print the report's tables, a line that each model writes, and what is true of the hardware."""
    from flexcim_sim.demo.tables import layer_table, model_table, rtl_tables, text_table

    console = table_console()
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
