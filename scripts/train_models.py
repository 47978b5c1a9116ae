#!/usr/bin/env python3
"""Train the small language models that the repository ships under ``models/``.

Everything is made from one public-domain text, the King James Bible of Debian's package
``bible-kjv-text``: byte-level models (a Llama, a Mamba-2 and a GPT-2) in Hugging Face format, a text to
calibrate quantization with, and a held-out text that no model has seen. The run is a fixed number
of steps from a fixed seed, so it can be interrupted, continued and repeated.

    python scripts/train_models.py               # everything, all models at the same time
    python scripts/train_models.py --text-only   # only models/text, in a second
    python scripts/train_models.py --model llama --steps 300 --output /tmp/try
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers.utils import logging as transformers_logging

from scripts.training.export import export
from scripts.training.loop import Run, train
from scripts.training.recipes import RECIPES, ModelName, as_tokens
from scripts.training.text import MissingTextError, read_verses, split_text, write_texts

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_STEPS = ", ".join(f"{recipe.steps} for {name.value}" for name, recipe in RECIPES.items())

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


def run_all(arguments: list[str]) -> None:
    """Train all models at the same time, each in a process of its own."""
    children = []
    for name in RECIPES:
        command = [sys.executable, __file__, "--model", name.value, "--plain", *arguments]
        children.append(subprocess.Popen(command))
    try:
        codes = [child.wait() for child in children]
    except KeyboardInterrupt:
        # The terminal has interrupted the children too; let them finish writing.
        for child in children:
            child.wait()
        raise
    if any(codes):
        raise typer.Exit(1)


@app.command()
def main(
    model: Annotated[ModelName | None, typer.Option(help="Which model to train. [default: all]")] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=4, help=f"Training steps of 2048 bytes. [default: {DEFAULT_STEPS}]"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides the first weights and the order of the text.")] = 1,
    output: Annotated[Path, typer.Option(help="Folder that receives the models and the texts.")] = ROOT / "models",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads for each model.")] = 1,
    bfloat16: Annotated[
        bool, typer.Option("--bfloat16/--float32", help="Arithmetic of the matrix products while training.")
    ] = True,
    checkpoints: Annotated[Path, typer.Option(help="Folder of the checkpoints.")] = ROOT / "build" / "train",
    restart: Annotated[bool, typer.Option("--restart", help="Begin at step 0 even if a checkpoint exists.")] = False,
    text_only: Annotated[bool, typer.Option("--text-only", help="Only write the text/ folder, train nothing.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Progress as plain lines, even on a terminal.")] = False,
) -> None:
    """Make the models and texts under models/ from the public-domain King James Bible.

    The text comes from Debian: **sudo apt-get install bible-kjv bible-kjv-text**. It is split into
    a training text, a calibration text (a part of the former) and a held-out text. Then a byte-level
    Llama, Mamba-2 and GPT-2 are trained on the CPU, some 20 to 40 minutes each, and stored as float16 in
    Hugging Face format together with their bits per byte on the held-out text.

    **To continue after an interruption, give the same command again:** a checkpoint is written
    every 100 steps, and the run goes on from it to exactly the weights it would have reached. The
    same seed, threads, PyTorch and kind of processor give the same weights; another processor may
    round differently, which changes the bits per byte in the third decimal.

    Examples:

    * everything: **python scripts/train_models.py**

    * a quick look, nothing in models/ touched: **python scripts/train_models.py --model llama
      --steps 200 --output /tmp/try**

    * one model with both cores, in float32 for a processor without bfloat16 instructions:
      **python scripts/train_models.py --model mamba2 --threads 2 --float32**
    """
    try:
        split = split_text(read_verses())
    except MissingTextError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    write_texts(split, output / "text")
    if text_only:
        typer.echo(f"{output / 'text'}: {len(split.heldout)} bytes held out, {len(split.calibration)} for calibration")
        return

    if not hasattr(torch.optim, "Muon"):
        typer.echo(
            f"Training needs PyTorch 2.9 or later for its optimizer Muon; this is {torch.__version__}.", err=True
        )
        raise typer.Exit(2)
    try:
        if model is None:
            options = [f"--seed={seed}", f"--threads={threads}", f"--output={output}", f"--checkpoints={checkpoints}"]
            options += [] if steps is None else [f"--steps={steps}"]
            options += ["--bfloat16" if bfloat16 else "--float32", *(["--restart"] if restart else [])]
            run_all(options)
            return
        run = Run(model, steps or RECIPES[model].steps, seed, threads, bfloat16)
        transformers_logging.set_verbosity_error()  # else it advises CUDA kernels for the Mamba
        transformers_logging.disable_progress_bar()
        typer.echo(f"{RECIPES[model].title}: seed {run.seed}, {run.steps} steps, threads: {run.threads}")
        trained, cpu_seconds = train(run, as_tokens(split.training), checkpoints, restart, plain)
        bits = export(run, trained, split, cpu_seconds, output)
    except KeyboardInterrupt:
        typer.echo("\nInterrupted; give the same command again to go on from the last checkpoint.", err=True)
        raise typer.Exit(130) from None
    size = sum(file.stat().st_size for file in (output / RECIPES[model].folder).iterdir())
    typer.echo(
        f"{output / RECIPES[model].folder}: {bits:.4f} bits per byte held out, "
        f"{size / 1e6:.2f} MB, {cpu_seconds / 60:.1f} CPU-minutes"
    )


if __name__ == "__main__":
    app()
