"""``flexcim nest``: a pruned model gets a denser plan that shares its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from flexcim.cli.console import shown_steps, table_console
from flexcim.config.pattern import Pattern
from flexcim.packed.plans import NestedPlan
from flexcim_flow.cli import options
from flexcim_flow.cli.inputs import OptionError

if TYPE_CHECKING:
    from flexcim_flow.nest.result import NestedResult

__all__ = ["nest"]


@options.unfolded
def nest(
    model: Annotated[Path, typer.Argument(help="Folder of the dense checkpoint.")],
    sparser: Annotated[
        Path, typer.Argument(help="Folder that `flexcim prune` wrote for this model: the sparser plan.")
    ],
    output: options.Output,
    *,
    rest: Annotated[
        str | None,
        typer.Option(
            help="Pattern, from the menu, of the weights that the denser plan adds to each layer. "
            "\\[default: the layer's own, which doubles its weights; none where more than half are kept]"
        ),
    ] = None,
    share: Annotated[
        float,
        typer.Option(
            help="Weight of the denser plan's error, 0 to 1. At 0 the sparser plan stays as it was pruned; at 1 both "
            "plans get what is best for the denser one."
        ),
    ] = 0.0,
    setting: options.SettingOptions,
    seed: options.Seed = 0,
) -> None:
    """Give a pruned model a denser plan that shares its weights, and pack both as one.

    The pruned model becomes the sparser plan. The denser plan adds weights that pruning dropped, chosen and solved for
    by least squares on the calibration text. Nothing is stored twice. `flexcim compile`, `cycles` and `generate-text`
    run either plan, or one in prefill and the other in decode.

    To keep a pruned model as the denser plan instead, give its checkpoint as MODEL, and as SPARSER a subset of its
    weights, such as `flexcim prune --score wanda --update none` makes of that checkpoint. If SPARSER is no subset, the
    denser plan changes some of MODEL's weights, and the command says what share.

    Writes checkpoint/ (the denser plan, loads in plain transformers), packed/ (both plans) and report.json. Keeps one
    block of each model in memory at a time. A run that was killed goes on where it stopped when you give the same
    command again.

    Example: `flexcim nest models/llama-kjv build/llama-75 -o build/llama-nested`
    """
    # torch and transformers take seconds to import; --help and mistyped options need neither.
    from flexcim_flow.nest.request import NestRequest
    from flexcim_flow.nest.run import nest_to

    request = NestRequest(
        model=model,
        sparser=sparser,
        rest=None if rest is None else _pattern(rest),
        share=share,
        **setting.given(),
        seed=seed,
    )
    with shown_steps() as steps:
        result = nest_to(output, request, progress=steps.show)
    _show(result)
    print(f"written: {output}")


def _pattern(text: str) -> Pattern:
    try:
        return Pattern.parse(text)
    except ValueError as error:
        raise OptionError(f"--rest: {error}") from None


def _show(result: NestedResult) -> None:
    """Print both plans of each layer, and what was measured."""
    print(f"seed {result.request.seed}: {len(result.samples)} calibration samples of {result.samples.shape[1]} tokens")
    right = ("denser", "sparser", "tiles")
    table = Table(Column("layer", overflow="fold"), "patterns", *(Column(f"{name}", justify="right") for name in right))
    for layer in result.layers:
        size = layer.tiling.outputs * layer.tiling.inputs
        table.add_row(
            layer.name,
            layer.tiling.pattern_names,
            *(f"{zeros / size:.2%}" for zeros in result.zeros[layer.name]),
            str(len(layer.tiling.tiles)),
        )
    table_console().print(table)
    for plan in NestedPlan:
        print(f"{plan.value} plan: {result.sparsity(plan):.2%} of the weights are zero")
    if result.sparsity(NestedPlan.DENSER) == result.sparsity(NestedPlan.SPARSER):
        print("the denser plan adds nothing: the model has no weight that the sparser plan lacks")
    if result.was_pruned and result.changed_share:
        print(
            f"the model was pruned before ({result.given_sparsity:.2%} of its weights are zero), and the denser plan "
            f"changes {result.changed_share:.2%} of its weights; it keeps them all where the sparser plan is a subset "
            "of them, --rest has room for the others, and --share is 0"
        )
    for name, evaluation in result.evaluations.items():
        print(f"bits per byte, {name.replace('_', ', ')}: {evaluation.bits_per_byte:.4f}")
