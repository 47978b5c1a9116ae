"""The options that several subcommands have, each typed once, so that their helps and defaults are the same."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_type_hints

import typer

from flexcim_flow.cli.inputs import CALIBRATION_TEXT, HELDOUT_TEXT, named
from flexcim_flow.common.options import DEFAULT_LENGTH, DEFAULT_SAMPLES
from flexcim_flow.layer.rule import SCORES

__all__ = ["ComparisonOptions", "Output", "Score", "Seed", "SettingOptions", "unfolded"]

Output: TypeAlias = Annotated[
    Path, typer.Option("--output", "-o", help="Folder to write; an earlier result is replaced.")
]
Score: TypeAlias = Annotated[
    str | None,
    typer.Option(
        parser=named(SCORES),
        metavar="SCORE",
        help=f"How weights are ranked: {', '.join(SCORES)}. \\[default: the plan's, else the method's own, "
        "obs for measured]",
    ),
]
Seed: TypeAlias = Annotated[int, typer.Option(min=0, help="Seed that draws the calibration samples.")]


@dataclass(frozen=True)
class SettingOptions:
    """The options of `flexcim_flow.common.setting.Setting`, under the names of its fields."""

    calibration: Annotated[
        Path | None, typer.Option(help="UTF-8 text to calibrate on. \\[default: the one that comes with FlexCiM]")
    ] = None
    evaluation: Annotated[Path | None, typer.Option("--evaluate", help="UTF-8 text to measure bits per byte on.")] = (
        None
    )
    samples: Annotated[int, typer.Option(help="Number of calibration samples.")] = DEFAULT_SAMPLES
    length: Annotated[
        int | None,
        typer.Option(
            help=f"Tokens per sample and per evaluation window. \\[default: {DEFAULT_LENGTH}, or the model's context]"
        ),
    ] = None
    stride: Annotated[
        int | None, typer.Option(help="Tokens from one evaluation window to the next. \\[default: the length]")
    ] = None
    device: Annotated[
        str | None,
        typer.Option(help="Where to compute, such as cpu or cuda:0. \\[default: cuda if there is one]"),
    ] = None

    def given(self) -> dict[str, Any]:
        """The fields of a setting but its model; the texts that are not named are those that come with FlexCiM."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return given | {"calibration": self.calibration or CALIBRATION_TEXT}


@dataclass(frozen=True)
class ComparisonOptions(SettingOptions):
    """The same for a comparison, which always measures."""

    evaluation: Annotated[
        Path | None,
        typer.Option(
            "--evaluate", help="UTF-8 text to measure the loss on. \\[default: the one that comes with FlexCiM]"
        ),
    ] = None

    def given(self) -> dict[str, Any]:
        """As in `SettingOptions`."""
        return super().given() | {"evaluation": self.evaluation or HELDOUT_TEXT}


def unfolded(command: Callable[..., None]) -> Callable[..., None]:
    """Let a subcommand take the options of a dataclass: those of each parameter of such a type, in its place.

    typer makes an option of each parameter that the returned function seems to have; the subcommand gets the dataclass.

    Parameters
    ----------
    command : callable
        The subcommand's function; all its parameters are annotated.
    """
    hints = get_type_hints(command, include_extras=True)
    bundles = {name: hints[name] for name in signature(command).parameters if is_dataclass(hints[name])}
    shown: list[Parameter] = []
    for name, parameter in signature(command).parameters.items():
        if name in bundles:
            inside = get_type_hints(bundles[name], include_extras=True)
            shown += [
                Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=inside[field.name])
                for field in fields(bundles[name])
            ]
        else:
            shown.append(parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[name]))

    @functools.wraps(command)
    def call(**options: Any) -> None:
        made = {
            name: kind(**{field.name: options.pop(field.name) for field in fields(kind)})
            for name, kind in bundles.items()
        }
        command(**options, **made)

    vars(call)["__signature__"] = Signature(shown)
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return call
