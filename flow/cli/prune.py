"""``flexcim prune``: a checkpoint becomes a pruned one, a packed model and a plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from flow.cli.inputs import CALIBRATION_TEXT, chosen_macro, chosen_text, shown_progress
from flow.options import (
    DEFAULT_LENGTH,
    DEFAULT_SAMPLES,
    ActivationScale,
    Granularity,
    Method,
    Score,
    Update,
)

if TYPE_CHECKING:
    from flow.result import PruneResult

__all__ = ["prune"]


def prune(
    model: Annotated[Path, typer.Argument(help="Local folder of a checkpoint in Hugging Face format.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; an earlier result is replaced.")],
    sparsity: Annotated[
        float | None, typer.Option(help="Least share of the block layers' weights to drop, 0 to 1.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Instead of --sparsity: cycles=0.5 or bytes=0.5, at most half of what the dense model takes."
        ),
    ] = None,
    vectors: Annotated[int, typer.Option(help="Vectors that a budget of cycles is counted for.")] = 64,
    method: Annotated[Method, typer.Option(help="Who chooses the patterns.")] = Method.FLOW,
    score: Annotated[
        Score | None, typer.Option(help="What masks are chosen by. \\[default: obs for flow, else wanda]")
    ] = None,
    update: Annotated[
        Update | None, typer.Option(help="What happens to the kept weights. \\[default: lsq for flow, else none]")
    ] = None,
    granularity: Annotated[
        Granularity | None,
        typer.Option(help="What gets a pattern of its own. \\[default: block for paper, else layer]"),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration of the macro, a TOML file.")] = None,
    preset_name: Annotated[
        str | None, typer.Option("--preset", help="Name of a configuration, see flexcim presets. \\[default: flexcim]")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="UTF-8 text to calibrate on. \\[default: the repository's]")
    ] = None,
    evaluate: Annotated[Path | None, typer.Option(help="UTF-8 text to measure bits per byte on.")] = None,
    samples: Annotated[int, typer.Option(help="Calibration samples.")] = DEFAULT_SAMPLES,
    length: Annotated[
        int | None,
        typer.Option(
            help="Tokens of a sample and of an evaluation window. "
            f"\\[default: {DEFAULT_LENGTH}, or the model's context]"
        ),
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Tokens from one evaluation window to the next. \\[default: the length]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the calibration samples' places in the text.")] = 0,
    activations: Annotated[
        ActivationScale, typer.Option(help="Scale of the activations: of each token, or of the layer's tensor.")
    ] = ActivationScale.TOKEN,
    activation_percentile: Annotated[
        float,
        typer.Option(
            help="With --activations tensor: percentile of the calibration's magnitudes, such as 99.9, that becomes "
            "the largest integer; what is larger is clipped."
        ),
    ] = 100.0,
    device: Annotated[
        str | None,
        typer.Option(help="Where blocks are computed, such as cpu or cuda:0. \\[default: cuda if there is one]"),
    ] = None,
) -> None:
    """Prune a model and pack it for a macro.

    Takes causal language models, masked ones such as BERT, and image classifiers such as ViT, whose calibration is a
    safetensors file with pixel_values [images, channels, height, width].

    Writes checkpoint/ (zeros in place, loads in plain transformers), packed/ (what the macro loads), plan.toml and
    report.json. One block's weights are in memory at a time. What is finished is kept beside the output, in a folder
    named OUTPUT.partial, until all is: after a crash or a kill, the same command goes on from there. Nothing is
    downloaded.
    """
    macro = chosen_macro(config, preset_name)

    # torch and transformers take seconds to import; --help and mistyped options need neither.
    from flow.budgets import parse_budget
    from flow.run import prune_to

    with shown_progress() as progress:
        result = prune_to(
            output,
            model,
            sparsity=sparsity,
            budget=None if budget is None else parse_budget(budget, macro, vectors),
            method=method,
            score=score,
            update=update,
            granularity=granularity,
            config=macro,
            calibration_text=chosen_text(calibration, CALIBRATION_TEXT, "--calibration"),
            evaluation_text=evaluate,
            samples=samples,
            length=length,
            stride=stride,
            seed=seed,
            activations=activations,
            activation_percentile=activation_percentile,
            device=device,
            progress=progress,
        )
    _show(result)
    print(f"written: {output}")


def _show(result: PruneResult) -> None:
    """Print the plan and what it achieved."""
    samples, *shape = result.samples.shape
    kind = f"samples of {shape[0]} tokens" if len(shape) == 1 else f"images of {' x '.join(map(str, shape))}"
    print(f"seed {result.seed}: {samples} calibration {kind}")
    print(f"method {result.method.value}: {result.selection.assignment.method}, {result.treatment}")
    table = Table(Column("layer", overflow="fold"), "pattern", "sparsity", "tiles", Column("cost", justify="right"))
    for layer in result.layers:
        table.add_row(
            layer.name,
            str(layer.pattern),
            f"{layer.sparsity:.2%}",
            str(len(layer.tiling.tiles)),
            f"{layer.choice.cost:.3g}",
        )
    Console().print(table)
    for name, nats in sorted(result.selection.trials.items(), key=lambda trial: trial[1]):
        print(f"tried {name}: {nats:.4f} nats per token away from the dense model")
    print(f"sparsity: {result.sparsity:.2%} of the weights are zero, asked for was {result.budget}")
    if result.evaluations is not None:
        dense, dense_quantized, pruned, quantized = (
            getattr(result.evaluations, name).bits_per_byte
            for name in ("dense", "dense_quantized", "pruned", "quantized")
        )
        print(f"bits per byte: {dense:.4f} dense, {pruned:.4f} pruned")
        print(f"in the macro's integers: {dense_quantized:.4f} dense, {quantized:.4f} pruned")
