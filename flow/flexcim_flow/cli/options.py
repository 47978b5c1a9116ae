"""Options that several subcommands have, declared once, so that their helps say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from flexcim_flow.cli.inputs import named
from flexcim_flow.common.options import DEFAULT_LENGTH
from flexcim_flow.layer.rule import SCORES

__all__ = ["Calibration", "Config", "Evaluate", "Length", "Output", "Preset", "Samples", "Score", "Seed", "Stride"]

Output: TypeAlias = Annotated[
    Path, typer.Option("--output", "-o", help="Folder to write; an earlier result is replaced.")
]
Config: TypeAlias = Annotated[Path | None, typer.Option(help="Configuration of the macro, a TOML file.")]
Preset: TypeAlias = Annotated[
    str | None, typer.Option("--preset", help="Name of a configuration, see flexcim presets. \\[default: flexcim]")
]
Score: TypeAlias = Annotated[
    str | None,
    typer.Option(
        parser=named(SCORES),
        metavar="SCORE",
        help=f"What masks are chosen by: {', '.join(SCORES)}. \\[default: the plan's, else the method's own]",
    ),
]
Calibration: TypeAlias = Annotated[
    Path | None, typer.Option(help="UTF-8 text to calibrate on. \\[default: the repository's]")
]
Evaluate: TypeAlias = Annotated[Path | None, typer.Option(help="UTF-8 text to measure bits per byte on.")]
Samples: TypeAlias = Annotated[int, typer.Option(help="Calibration samples.")]
Length: TypeAlias = Annotated[
    int | None,
    typer.Option(
        help=f"Tokens of a sample and of an evaluation window. \\[default: {DEFAULT_LENGTH}, or the model's context]"
    ),
]
Stride: TypeAlias = Annotated[
    int | None, typer.Option(help="Tokens from one evaluation window to the next. \\[default: the length]")
]
Seed: TypeAlias = Annotated[int, typer.Option(min=0, help="Seed of the samples' places in the calibration text.")]
