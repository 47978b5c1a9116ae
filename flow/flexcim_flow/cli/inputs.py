"""What the subcommands share: the macro and the texts that options name, and the bar of a long run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from flexcim.config.macro import MacroConfig, preset
from flexcim.errors import FlexCiMError
from flexcim_flow.common.registry import Registry, UnknownNameError

__all__ = ["CALIBRATION_TEXT", "HELDOUT_TEXT", "OptionError", "chosen_macro", "chosen_text", "named", "shown_progress"]

_TEXTS = Path(__file__).resolve().parents[3] / "models" / "text"

CALIBRATION_TEXT = _TEXTS / "calibration.txt"
"""The repository's calibration text; an installed package has none."""

HELDOUT_TEXT = _TEXTS / "heldout.txt"
"""The repository's text to measure on; an installed package has none."""


class OptionError(FlexCiMError):
    """Options that do not go together; the message is one sentence."""


def named(registry: Registry[Any]) -> Callable[[str], str]:
    """What reads an option that names a registered thing."""

    def parse(name: str) -> str:
        try:
            return registry.check(name)
        except UnknownNameError as error:
            raise typer.BadParameter(str(error)) from None

    return parse


def chosen_macro(config: Path | None, preset_name: str | None) -> MacroConfig:
    """The macro that a configuration file or a preset's name stands for; the default one if neither is given."""
    if config is not None and preset_name is not None:
        raise OptionError("--config and --preset exclude each other: a configuration file can name its preset itself")
    return preset(preset_name or "flexcim") if config is None else MacroConfig.from_toml(config)


def chosen_text(path: Path | None, shipped: Path, option: str) -> Path:
    """The text that an option names, or the one that the repository ships."""
    if path is None and not shipped.exists():
        raise OptionError(f"{option} must name a text, as there is none beside the installed package")
    return path or shipped


@contextlib.contextmanager
def shown_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show steps as a bar on a terminal, and not at all elsewhere."""
    console = Console(stderr=True)
    columns = (BarColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("")

        def show(name: str, done: int, total: int) -> None:
            bar.update(task, description=name, completed=done, total=total)

        yield show
