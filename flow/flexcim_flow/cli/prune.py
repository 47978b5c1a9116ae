"""``flexcim prune``: a checkpoint becomes a pruned one, a packed model and a plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from flexcim.cli.configuration import Config, Preset, chosen_macro
from flexcim.cli.console import shown_steps, table_console
from flexcim_flow.choice.selector import DEFAULT_METHOD, SELECTORS
from flexcim_flow.cli import options
from flexcim_flow.cli.inputs import OptionError, named
from flexcim_flow.common.options import DEFAULT_VECTORS, ActivationScale, Granularity, Update

if TYPE_CHECKING:
    from flexcim_flow.prune.result import Evaluations, PruneResult

__all__ = ["prune"]

_TELLING_STEPS = 100
"""Steps of a recovery of which the first and the last tenth have enough samples to be compared."""


@options.unfolded
def prune(
    model: Annotated[Path, typer.Argument(help="Folder of a checkpoint in Hugging Face format.")],
    output: options.Output,
    *,
    sparsity: Annotated[
        float | None, typer.Option(help="Share of the blocks' weights to drop, 0 to 1; a method may drop more.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Instead of --sparsity: cycles=0.5 or bytes=0.5 allows half of what the dense model takes."),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="Instead of --sparsity: the plan.toml of an earlier run, edited or not, with each layer's pattern."
        ),
    ] = None,
    vectors: Annotated[
        int | None,
        typer.Option(help=f"With --budget cycles: vectors to count them for. \\[default: {DEFAULT_VECTORS}]"),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            parser=named(SELECTORS),
            metavar="METHOD",
            help=f"How patterns are chosen: {', '.join(SELECTORS)}. owl and paper may drop more than you ask for. "
            f"\\[default: {DEFAULT_METHOD}]",
            show_default=False,
        ),
    ] = None,
    score: options.Score = None,
    update: Annotated[
        Update | None,
        typer.Option(
            help="How kept weights make up for dropped ones. \\[default: the plan's, else the method's own, "
            "lsq for measured]"
        ),
    ] = None,
    granularity: Annotated[
        Granularity | None,
        typer.Option(
            help="Whether each layer or each block gets one pattern. \\[default: the method's own, block for paper]"
        ),
    ] = None,
    config: Config = None,
    preset_name: Preset = None,
    setting: options.SettingOptions,
    seed: options.Seed = 0,
    recover: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="STEPS",
            help="Fine-tune for this many steps on the calibration text after pruning, with the zeros held. Needs 16 "
            "bytes of memory per parameter.",
        ),
    ] = 0,
    activations: Annotated[
        ActivationScale, typer.Option(help="Scale the activations of each token by itself, or all of a layer alike.")
    ] = ActivationScale.TOKEN,
    activation_percentile: Annotated[
        float,
        typer.Option(
            help="With --activations tensor: percentile of the calibration's magnitudes, such as 99.9, that maps to "
            "the largest integer. Larger values are clipped."
        ),
    ] = 100.0,
) -> None:
    """Prune a model and pack it for a macro.

    Works on causal language models, masked ones such as BERT, and image classifiers such as ViT. Image classifiers are
    calibrated on a safetensors file with pixel_values, images x channels x height x width.

    Writes checkpoint/ (loads in plain transformers), packed/ (what the macro loads), plan.toml and report.json. Keeps
    one block's weights in memory at a time. Downloads nothing.

    A run that was killed goes on where it stopped when you give the same command again. Until it is done, its parts
    are in OUTPUT.partial.

    To set patterns by hand, edit plan.toml and apply it with --plan. Patterns, score and update are then the plan's;
    give the other options again.
    """
    macro = chosen_macro(config, preset_name)
    _check_exclusive(
        plan, {"--sparsity": sparsity, "--budget": budget, "--method": method, "--granularity": granularity}
    )

    # torch and transformers take seconds to import; --help and mistyped options need neither.
    from flexcim_flow.choice.budgets import Budget, CycleBudget, SparsityBudget, parse_budget
    from flexcim_flow.prune.plan import read_plan
    from flexcim_flow.prune.request import PruneRequest
    from flexcim_flow.prune.run import prune_to
    from flexcim_flow.samples.images import ImageError

    limit: Budget | None = None if sparsity is None else SparsityBudget(sparsity)
    if budget is not None:
        limit = parse_budget(budget, macro, DEFAULT_VECTORS if vectors is None else vectors)
    if vectors is not None and not isinstance(limit, CycleBudget):
        raise OptionError(f"--vectors {vectors} has no effect without --budget cycles=SHARE")
    request = PruneRequest(
        model=model,
        **setting.given(),
        config=macro,
        budget=limit,
        plan=None if plan is None else read_plan(plan),
        method=method,
        granularity=granularity,
        score=score,
        update=update,
        seed=seed,
        recover=recover,
        activations=activations,
        activation_percentile=activation_percentile,
    )
    try:
        with shown_steps() as steps:
            result = prune_to(output, request, progress=steps.show)
    except ImageError:
        if setting.calibration is None:  # images were sought in the repository's text
            raise OptionError(
                f"{model} is a model of images, which needs --calibration, a safetensors file with pixel_values"
            ) from None
        raise
    _show(result)
    print(f"written: {output}")


def _check_exclusive(plan: Path | None, others: dict[str, object]) -> None:
    """OptionError unless either a plan is given, or a sparsity, or a budget."""
    given = [name for name, value in others.items() if value is not None]
    if plan is not None and given:
        raise OptionError(f"--plan and {given[0]} exclude each other: a plan names the pattern of each layer")
    if plan is None and ("--sparsity" in given) == ("--budget" in given):
        raise OptionError("one of --sparsity, --budget and --plan must be given, and not two of them")


def _show(result: PruneResult) -> None:
    """Print the plan and what it achieved."""
    samples, *shape = result.samples.shape
    of_text = len(shape) == 1
    kind = f"samples of {shape[0]} tokens" if of_text else f"images of {' x '.join(map(str, shape))}"
    print(f"seed {result.request.seed}: {samples} calibration {kind}")
    plan, selection = result.request.plan, result.selection
    if plan is not None:
        print(f"method plan: {plan.path}, {result.treatment}")
    if selection is not None:
        print(f"method {result.request.source}: {selection.assignment.method}, {result.treatment}")
    _show_layers(result)
    if selection is not None:
        for name, nats in sorted(selection.trials.items(), key=lambda trial: trial[1]):
            print(f"tried {name}: {nats:.4f} nats per {'token' if of_text else 'image'} away from the dense model")
    asked = "" if result.request.budget is None else f" (asked for: {result.request.budget})"
    print(f"sparsity: {result.sparsity:.2%} of these layers' weights are zero{asked}")
    if result.target is not None:
        from flexcim_flow.prune.result import overshoot

        told = overshoot(result.request.chooser, result.target, result.chosen_sparsity)
        if told is not None:
            print(told)
    dense = 1 - result.weights / result.parameters
    print(f"in the whole model: {result.zeros / result.parameters:.2%}; {dense:.2%} of it is outside these layers")
    if result.recovery:
        _show_recovery(result.recovery)
    if result.evaluations is not None:
        _show_evaluations(result.evaluations)


def _show_layers(result: PruneResult) -> None:
    table = Table(Column("layer", overflow="fold"), "pattern", "sparsity", "tiles", Column("cost", justify="right"))
    for layer in result.layers:
        cost = layer.choice.cost
        table.add_row(
            layer.name,
            str(layer.pattern),
            f"{layer.sparsity:.2%}",
            str(len(layer.tiling.tiles)),
            "not measured" if math.isnan(cost) else f"{cost:.3g}",
        )
    table_console().print(table)


def _show_recovery(losses: Sequence[float]) -> None:
    """Print how many steps were taken, and what they did to the loss where it takes enough of them to tell."""
    from flexcim_flow.prune.recovery import ends

    first, last = ends(losses)
    told = f", loss {first:.4f} in their first tenth, {last:.4f} in the last" if len(losses) >= _TELLING_STEPS else ""
    print(f"recovery: {len(losses)} steps{told}")


def _show_evaluations(found: Evaluations) -> None:
    recovered = "" if found.recovered is None else f", {found.recovered.bits_per_byte:.4f} recovered"
    last = "pruned" if found.recovered is None else "pruned and recovered"
    print(f"bits per byte: {found.dense.bits_per_byte:.4f} dense, {found.pruned.bits_per_byte:.4f} pruned{recovered}")
    print(
        f"in the macro's integers: {found.dense_quantized.bits_per_byte:.4f} dense, "
        f"{found.quantized.bits_per_byte:.4f} {last}"
    )
