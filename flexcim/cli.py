"""The ``flexcim`` command: a table of subcommands, each of which is imported from its wing only when it is called."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import typer
from rich.console import Console
from rich.table import Column, Table

from flexcim.accelerator_config import ACCELERATOR_PRESETS
from flexcim.config import PRESETS
from flexcim.errors import FlexCiMError

__all__ = ["SUBCOMMANDS", "Subcommand", "main"]

USAGE_ERROR = 2
"""Exit code for input that the user can mend."""

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the signal's number, as shells have it."""


@dataclass(frozen=True)
class Subcommand:
    """Where a subcommand lives.

    Parameters
    ----------
    module : str
        Module that is imported when the subcommand is called.
    function : str
        Function in it; typer makes the command line of its parameters.
    help : str
        The line that ``flexcim --help`` shows.
    """

    module: str
    function: str
    help: str

    def load(self) -> Callable[..., Any]:
        """Import the subcommand's function."""
        function: Callable[..., Any] = getattr(importlib.import_module(self.module), self.function)
        return function


# Modules are named, not imported: the ground floor must not import upwards, and torch or Amaranth take seconds.
SUBCOMMANDS: Mapping[str, Subcommand] = MappingProxyType(
    {
        "generate": Subcommand("hw.cli", "generate", "Generate the Verilog of a macro or an accelerator."),
        "verify": Subcommand("sim.cli", "verify", "Check generated Verilog against the golden model."),
        "prune": Subcommand("flow.cli", "prune", "Prune a model, with a pattern for each layer, and pack it."),
        "compile": Subcommand("flexcim.compiler.cli", "compile_packed", "Compile a packed model for an accelerator."),
        "cycles": Subcommand("flexcim.compiler.cli", "cycles", "Tell what each layer costs, and what bounds it."),
        "generate-text": Subcommand("sim.runtime.cli", "generate_text", "Let a pruned model write on an accelerator."),
        "demo": Subcommand("sim.demo.cli", "demo", "Prune a model, run it on the engine and write a report."),
        "presets": Subcommand("flexcim.cli", "presets", "List the configurations that have a name."),
    }
)
"""All subcommands, in the order in which ``flexcim --help`` shows them."""


class _InterruptedError(Exception):
    """Ctrl-C inside a subcommand; typer's own answer to KeyboardInterrupt differs between its versions."""


def presets() -> None:
    """List the configurations that have a name."""
    table = Table(Column("preset", no_wrap=True), "S", "R", "C", "L", "index", "W×A", "b", "B", "P", "patterns")
    for name, config in PRESETS.items():
        table.add_row(
            name,
            *(
                str(value)
                for value in (
                    config.sub_macros,
                    config.rows,
                    config.columns,
                    config.lanes,
                    config.index_bits,
                    f"{config.weight_bits}×{config.activation_bits}",
                    config.bits_per_cycle,
                    config.banks,
                    config.activation_port,
                    " ".join(map(str, config.patterns)),
                )
            ),
        )
    console = Console()
    console.print(table)
    accelerators = Table(
        Column("preset", no_wrap=True), "macro", "macros", "buses", "activation memory", "program", "registers"
    )
    for name, accelerator in ACCELERATOR_PRESETS.items():
        macro = next(macro for macro, config in PRESETS.items() if config == accelerator.macro)
        buses = accelerator.weight_bus, accelerator.activation_bus, accelerator.result_bus
        accelerators.add_row(
            name,
            macro,
            str(accelerator.macros),
            " ".join(map(str, buses)),
            str(accelerator.activation_memory),
            str(accelerator.program_depth),
            accelerator.register_bus,
        )
    console.print(accelerators)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"flexcim {importlib.metadata.version('flexcim')}")
        raise typer.Exit()


def _top(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    """A generator of digital compute-in-memory engines for N:M sparse weights, with its pruner and its bench."""


def _not_called() -> None:
    """Stands for a subcommand that is only listed."""


def _interruptible(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt:
            raise _InterruptedError from None

    return call


def _build(called: str | None) -> typer.Typer:
    """The command line, with the function of the one subcommand that is called."""
    app = typer.Typer(add_completion=False, no_args_is_help=True)
    app.callback()(_top)
    for name, subcommand in SUBCOMMANDS.items():
        if name == called:
            app.command(name)(_interruptible(subcommand.load()))
        else:
            app.command(name, help=subcommand.help)(_not_called)
    return app


def _run(arguments: Sequence[str]) -> int:
    # The options before the subcommand take no values, so the first word is its name.
    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    if called is not None and called not in SUBCOMMANDS:
        near = difflib.get_close_matches(called, SUBCOMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(SUBCOMMANDS)}"
        raise FlexCiMError(f"unknown subcommand {called!r}; {hint}")
    # Not 'app()', which would replace sys.excepthook.
    command = typer.main.get_command(_build(called))
    try:
        command.main(args=list(arguments), prog_name="flexcim")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after ``flexcim``; by default, those of the process.

    Returns
    -------
    int
        The exit code: 0; 2 for bad input, whose one sentence goes to the standard error; 130 after Ctrl-C.
    """
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except FlexCiMError as error:
        print(f"flexcim: {error}", file=sys.stderr)
        return USAGE_ERROR
    except (KeyboardInterrupt, _InterruptedError):
        print("flexcim: interrupted", file=sys.stderr)
        return INTERRUPTED
