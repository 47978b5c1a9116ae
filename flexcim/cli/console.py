"""What the subcommands share of a terminal: a console for tables, and the bar of a long run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["Steps", "shown_steps", "table_console"]

_PIPED_WIDTH = 175
"""Columns of a line where nobody says how many there are: room for the widest table, in a log or a file."""


def table_console() -> Console:
    """The standard output for tables: as wide as the terminal, as COLUMNS says, or else as the widest table needs."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPED_WIDTH
    return console


class Steps:
    """The steps of a long run, as a bar on the standard error. Where that is no terminal, only `tell` shows anything.

    Parameters
    ----------
    progress : Progress
        What draws the bar.
    total : int, optional
        How many steps there will be, if that is known.
    """

    def __init__(self, progress: Progress, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=total)

    def expect(self, total: int) -> None:
        """Say how many steps there will be."""
        self._progress.update(self._task, total=total)

    def done(self, text: str = "") -> None:
        """Say that a step is done, and beside the bar which."""
        self._progress.update(self._task, advance=1, description=text)

    def show(self, text: str, done: int, total: int) -> None:
        """Say what is being done, and how many of how many steps are done."""
        self._progress.update(self._task, description=text, completed=done, total=total)

    def tell(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def shown_steps(total: int | None = None) -> Iterator[Steps]:
    """Show the steps of a run for as long as the context is open."""
    console = Console(stderr=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield Steps(progress, total)
