"""Options that several subcommands have, declared once, so that their helps say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from flexcim_flow.common.options import DEFAULT_LENGTH

__all__ = ["Calibration", "Evaluate", "Length", "Output", "Samples", "Seed", "Stride"]

Output: TypeAlias = Annotated[
    Path, typer.Option("--output", "-o", help="Folder to write; an earlier result is replaced.")
]
Calibration: TypeAlias = Annotated[
    Path | None, typer.Option(help="UTF-8 text to calibrate on. \\[default: the one that comes with FlexCiM]")
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
