"""``flexcim compare``: one model pruned in several ways, as a table, files and plots."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.table import Column, Table

from flexcim.cli.configuration import Config, Preset, chosen_macro
from flexcim.cli.console import shown_steps, table_console
from flexcim_flow.choice.selector import SELECTORS
from flexcim_flow.cli import options
from flexcim_flow.cli.inputs import OptionError
from flexcim_flow.common.options import DEFAULT_VECTORS, Update
from flexcim_flow.common.registry import UnknownNameError

if TYPE_CHECKING:
    from flexcim_flow.compare.result import Comparison

__all__ = ["compare"]

_Option = TypeVar("_Option", bound=Enum)
_Number = TypeVar("_Number", int, float)


@options.unfolded
def compare(
    model: Annotated[Path, typer.Argument(help="Folder of a causal language model in Hugging Face format.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; an earlier comparison is replaced.")],
    *,
    methods: Annotated[
        str,
        typer.Option(
            help=f"How patterns are chosen, with commas: {', '.join(SELECTORS)}. owl and paper may drop more than you "
            "ask for."
        ),
    ] = ",".join(SELECTORS.own),
    updates: Annotated[
        str, typer.Option(help="How kept weights make up for dropped ones, with commas. \\[default: each method's own]")
    ] = "",
    score: options.Score = None,
    sparsities: Annotated[
        str, typer.Option(help="Shares of the blocks' weights to drop, with commas.")
    ] = "0.5,0.6,0.7",
    seeds: Annotated[str, typer.Option(help="Seeds that draw the calibration samples, with commas.")] = "0",
    config: Config = None,
    preset_name: Preset = None,
    setting: options.ComparisonOptions,
    questions: Annotated[
        Path | None,
        typer.Option(help="JSONL file of multiple-choice questions: context, choices and the answer's index."),
    ] = None,
    vectors: Annotated[int, typer.Option(help="Vectors to count cycles for.")] = DEFAULT_VECTORS,
) -> None:
    """Prune a model in several ways, and measure each on the same text.

    Takes every method with every update at every sparsity. Writes comparison.json, comparison.csv and two plots: the
    added loss against sparsity, and against cycles on the macro. Standard errors are over the windows of the text.

    A run that was killed goes on with the next row when you give the same command again.
    """
    macro = chosen_macro(config, preset_name)
    chosen_methods, chosen_updates = _methods(methods), _options(updates, Update, "--updates")
    targets = _numbers(sparsities, float, "--sparsities")
    draws = _numbers(seeds, int, "--seeds")

    # torch and transformers take seconds to import; --help and mistyped options need neither.
    from flexcim_flow.compare.request import ComparisonRequest, ways_of
    from flexcim_flow.compare.run import compare_to

    request = ComparisonRequest(
        model=model,
        ways=ways_of(chosen_methods, chosen_updates, score, targets, draws),
        **setting.given(),
        questions=questions,
        config=macro,
        vectors=vectors,
    )
    with shown_steps() as steps:
        comparison = compare_to(output, request, progress=steps.show)
    _show(comparison)
    print(f"written: {output}")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _methods(text: str) -> list[str]:
    """The methods that a list with commas names."""
    try:
        return [SELECTORS.check(word) for word in _words(text)]
    except UnknownNameError as error:
        raise OptionError(f"--methods: {error}") from None


def _options(text: str, kind: type[_Option], option: str) -> list[_Option]:
    """The members that a list with commas names."""
    known = {member.value: member for member in kind}
    for word in _words(text):
        if word not in known:
            raise OptionError(f"{option} must be one of {', '.join(known)}, not {word!r}")
    return [known[word] for word in _words(text)]


def _numbers(text: str, kind: Callable[[str], _Number], option: str) -> list[_Number]:
    """The numbers of a list with commas."""
    try:
        return [kind(word) for word in _words(text)]
    except ValueError:
        raise OptionError(f"{option} must be numbers with commas between them, not {text!r}") from None


def _error(error: float, form: str) -> str:
    """A standard error, or a dash where a single window or question has none."""
    return "–" if math.isnan(error) else format(error, form)


def _show(comparison: Comparison) -> None:
    """Print a line for each row."""
    right = ("target", "sparsity", "added loss", "±", "with int8", "bits per byte", "cycles", "seconds")
    questions = comparison.accuracy_dense is not None
    table = Table("method", "score", "update", "seed", *(Column(name, justify="right") for name in right))
    if questions:
        table.add_column("right answers", justify="right")
    for row in comparison.rows:
        cells = [row.method, row.score, row.update, str(row.seed), f"{row.sparsity_target:.1%}", f"{row.sparsity:.1%}"]
        cells += [f"{row.loss_added:.4f}", _error(row.standard_error, ".4f"), f"{row.loss_added_int8:.4f}"]
        cells += [f"{row.bits_per_byte:.4f}", f"{row.cycles / row.cycles_dense:.1%}", f"{row.seconds:.1f}"]
        if row.accuracy is not None and row.accuracy_standard_error is not None:
            cells.append(f"{row.accuracy:.1%} ± {_error(row.accuracy_standard_error, '.1%')}")
        table.add_row(*cells)
    table_console().print(table)
    _show_overshoots(comparison)
    print(f"loss of the dense model: {comparison.rows[0].loss_dense:.4f} nats per token; added loss likewise")
    if questions:
        print(f"the dense model answers {comparison.accuracy_dense:.1%} right")


def _show_overshoots(comparison: Comparison) -> None:
    """Print which methods dropped more than was asked for, each once for a sparsity, at its largest."""
    from flexcim_flow.prune.result import overshoot

    chosen: dict[tuple[str, float], float] = {}
    for row in comparison.rows:
        asked = row.method, row.sparsity_target
        chosen[asked] = max(row.sparsity_chosen, chosen.get(asked, 0.0))
    for (method, target), sparsity in chosen.items():
        told = overshoot(method, target, sparsity)
        if told is not None:
            print(told)
