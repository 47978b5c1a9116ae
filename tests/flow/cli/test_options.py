"""Options that several subcommands have: typed once, and the same in all of them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from inspect import signature
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from flexcim_flow.cli.compare import compare
from flexcim_flow.cli.nest import nest
from flexcim_flow.cli.options import ComparisonOptions, SettingOptions, unfolded
from flexcim_flow.cli.prune import prune
from flexcim_flow.common.setting import Setting

pytestmark = pytest.mark.torch


@dataclass(frozen=True)
class Lamp:
    """Two options in one."""

    colour: Annotated[str, typer.Option(help="Its colour.")] = "red"
    watts: Annotated[int | None, typer.Option("--power", help="Its power.")] = None


def run(command, *words):
    """What a command prints."""
    app = typer.Typer()
    app.command()(unfolded(command))
    found = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert found.exit_code == 0
    return found.output


def test_a_dataclass_becomes_its_options():
    def show(name: Annotated[str, typer.Argument()], *, lamp: Lamp, loud: bool = False) -> None:
        print(name, lamp, loud)

    assert run(show, "hall") == f"hall {Lamp()} False\n"
    assert run(show, "hall", "--power", "5", "--colour", "blue", "--loud") == f"hall {Lamp('blue', 5)} True\n"
    assert list(signature(unfolded(show)).parameters) == ["name", "colour", "watts", "loud"]
    shown = run(show, "--help")
    assert "Its colour. [default: red]" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("command", "kind"), [(prune, SettingOptions), (nest, SettingOptions), (compare, ComparisonOptions)]
)
def test_each_subcommand_has_all_options_of_a_setting(command, kind):
    common = [field.name for field in fields(Setting) if field.name != "model"]
    assert [field.name for field in fields(kind)] == common
    assert set(common) <= signature(command).parameters.keys()
    # What the command line leaves out is what the library takes by default.
    defaults = {field.name: field.default for field in fields(Setting)}
    for field in fields(SettingOptions):
        if field.name != "calibration":
            assert field.default == defaults[field.name]
