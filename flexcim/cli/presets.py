"""``flexcim presets``: the configurations that have a name, with all their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import tomli_w
import typer
from rich.table import Column, Table

from flexcim.cli.console import table_console
from flexcim.config.accelerator import ACCELERATOR_PRESETS
from flexcim.config.macro import PRESETS
from flexcim.config.parameters import ANY, Configuration, parameters, toml_text
from flexcim.config.presets import REGISTRY, Preset, find_preset

__all__ = ["presets"]


def presets(
    name: Annotated[str | None, typer.Argument(help="Print this preset as TOML, ready to be changed.")] = None,
) -> None:
    """List the configurations that have a name, with all parameters by the names that they have in TOML files.

    Examples: `flexcim presets`, `flexcim presets board > my.toml`
    """
    if name is not None:
        print(_document(find_preset(name)), end="")
        return
    console = table_console()
    console.print("presets")
    width = max(len(row.name) for row in REGISTRY)
    for row in REGISTRY:
        console.print(f"  {row.name:<{width}}  {row.stands_for}", highlight=False, soft_wrap=True)
    values = {name: config.to_mapping() for name, config in PRESETS.items()}
    menus = {name: " ".join(parameters.pop("patterns")) for name, parameters in values.items()}
    table = Table("parameter", *(Column(name, justify="right") for name in values))
    for parameter in values["flexcim"]:
        table.add_row(parameter, *(toml_text(parameters[parameter]) for parameters in values.values()))
    console.print(table)
    console.print("patterns")
    width = max(map(len, menus))
    for name, menu in menus.items():
        console.print(f"  {name:<{width}}  {menu}", highlight=False, soft_wrap=True)

    console.print(_accelerators())


def _document(row: Preset) -> str:
    """A preset's TOML document, with what each parameter is and may be."""
    if row.accelerator is None:
        macro, tables = PRESETS[row.name], []
    else:
        accelerator = ACCELERATOR_PRESETS[row.name]
        macro, tables = accelerator.macro, _table("accelerator", accelerator)
    return "\n".join([f"# {row.name}: {row.stands_for}", *_table("macro", macro), *tables, ""])


def _table(name: str, config: Configuration) -> list[str]:
    """The lines of a configuration's TOML table."""
    lines = ["", f"[{name}]"]
    for row in parameters(type(config)):
        if row.is_table:  # it has a table of its own
            continue
        symbol = "" if row.symbol == ANY else f"{row.symbol}: "
        values = "" if row.kind is bool or row.range_text == ANY else f" ({row.range_text})"
        lines.append(f"# {symbol}{row.meaning}{values}")
        lines.append(tomli_w.dumps({row.name: row.plain(getattr(config, row.name))}).rstrip())
    return lines


def _accelerators() -> Table:
    """The accelerators, each with the preset that its macro is nearest to, and what differs from that."""
    table = Table("parameter", *(Column(name, justify="right") for name in ACCELERATOR_PRESETS))
    macros = [config.macro.to_mapping() for config in ACCELERATOR_PRESETS.values()]
    presets = {name: macro.to_mapping() for name, macro in PRESETS.items()}
    nearest = [min(presets, key=lambda name: len(_differences(presets[name], macro))) for macro in macros]
    table.add_row("macro", *nearest)
    differing = [_differences(presets[name], macro) for name, macro in zip(nearest, macros, strict=True)]
    for parameter in dict.fromkeys(one for names in differing for one in names):
        table.add_row(f"macro.{parameter}", *(toml_text(macro[parameter]) for macro in macros))
    for parameter in ACCELERATOR_PRESETS["accelerator"].to_mapping():
        if parameter != "macro":
            table.add_row(parameter, *(str(getattr(config, parameter)) for config in ACCELERATOR_PRESETS.values()))
    return table


def _differences(macro: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The parameters in which two macros differ."""
    return [parameter for parameter in macro if macro[parameter] != other[parameter]]
