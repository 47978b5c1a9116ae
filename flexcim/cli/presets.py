"""``flexcim presets``: the configurations that have a name, with all their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import tomli_w
import typer
from rich.table import Column, Table

from flexcim.cli.console import table_console
from flexcim.config.accelerator import ACCELERATOR_PRESETS
from flexcim.config.macro import PRESETS, ConfigError

__all__ = ["presets"]


def presets(
    name: Annotated[str | None, typer.Argument(help="Print this preset as TOML, ready to be changed.")] = None,
) -> None:
    """List the configurations that have a name, with all parameters by the names that they have in TOML files.

    Examples: `flexcim presets`, `flexcim presets board > my.toml`
    """
    if name is not None:
        print(tomli_w.dumps(_document(name)), end="")
        return
    console = table_console()
    values = {name: config.to_mapping() for name, config in PRESETS.items()}
    menus = {name: " ".join(parameters.pop("patterns")) for name, parameters in values.items()}
    table = Table("parameter", *(Column(name, justify="right") for name in values))
    for parameter in values["flexcim"]:
        table.add_row(parameter, *(_toml(parameters[parameter]) for parameters in values.values()))
    console.print(table)
    console.print("patterns")
    width = max(map(len, menus))
    for name, menu in menus.items():
        console.print(f"  {name:<{width}}  {menu}", highlight=False, soft_wrap=True)

    console.print(_accelerators())


def _document(name: str) -> dict[str, Any]:
    """A preset's TOML document."""
    if name in ACCELERATOR_PRESETS:
        values = ACCELERATOR_PRESETS[name].to_mapping()
        return {"macro": values.pop("macro"), "accelerator": values}
    if name in PRESETS:
        return {"macro": PRESETS[name].to_mapping()}
    raise ConfigError(f"unknown preset {name!r}; known are {', '.join((*PRESETS, *ACCELERATOR_PRESETS))}")


def _accelerators() -> Table:
    """The accelerators, each with the preset that its macro is nearest to, and what differs from that."""
    table = Table("parameter", *(Column(name, justify="right") for name in ACCELERATOR_PRESETS))
    macros = [config.macro.to_mapping() for config in ACCELERATOR_PRESETS.values()]
    presets = {name: macro.to_mapping() for name, macro in PRESETS.items()}
    nearest = [min(presets, key=lambda name: len(_differences(presets[name], macro))) for macro in macros]
    table.add_row("macro", *nearest)
    differing = [_differences(presets[name], macro) for name, macro in zip(nearest, macros, strict=True)]
    for parameter in dict.fromkeys(one for names in differing for one in names):
        table.add_row(f"macro.{parameter}", *(_toml(macro[parameter]) for macro in macros))
    for parameter in ACCELERATOR_PRESETS["accelerator"].to_mapping():
        if parameter != "macro":
            table.add_row(parameter, *(str(getattr(config, parameter)) for config in ACCELERATOR_PRESETS.values()))
    return table


def _differences(macro: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The parameters in which two macros differ."""
    return [parameter for parameter in macro if macro[parameter] != other[parameter]]


def _toml(value: int | bool) -> str:
    """A value as it is written in TOML."""
    return str(value).lower()
