"""A table of subcommands, each of which is imported from its wing only when it is called."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import typer

from flexcim.cli.output import ClosedPipeError, watched_output
from flexcim.errors import FlexCiMError

__all__ = ["SUBCOMMANDS", "Subcommand", "carry_out"]

_CLOSED_PIPE = 1
"""Exit code when nobody reads the output any more; it needs no message, as with other programs."""

_USAGE_ERROR = 2
"""Exit code for input that the user can mend."""


_TYPER_INTERRUPTED = 130
"""What new versions of typer make of Ctrl-C while they read the command line; old ones raise Abort."""


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
        "generate": Subcommand(
            "flexcim_hw.cli.generate", "generate", "Generate the Verilog of a macro or an accelerator."
        ),
        "verify": Subcommand("flexcim_sim.cli.verify", "verify", "Check generated Verilog against the golden model."),
        "prune": Subcommand(
            "flexcim_flow.cli.prune", "prune", "Prune a model, with a pattern for each layer, and pack it."
        ),
        "compare": Subcommand(
            "flexcim_flow.cli.compare", "compare", "Prune a model in several ways, and measure each."
        ),
        "nest": Subcommand(
            "flexcim_flow.cli.nest", "nest", "Give a pruned model a denser plan that shares its weights."
        ),
        "compile": Subcommand("flexcim.cli.compile", "compile_packed", "Compile a packed model for an accelerator."),
        "cycles": Subcommand("flexcim.cli.compile", "cycles", "Tell what each layer costs, and what bounds it."),
        "generate-text": Subcommand(
            "flexcim_sim.cli.generate_text", "generate_text", "Let a pruned model write on an accelerator."
        ),
        "demo": Subcommand("flexcim_sim.cli.demo", "demo", "Prune models, run layers of them on generated RTL, show it in a page."),
        "presets": Subcommand("flexcim.cli.presets", "presets", "List the configurations that have a name."),
    }
)
"""All subcommands, in the order in which ``flexcim --help`` shows them."""


class _InterruptedError(Exception):
    """Ctrl-C inside a subcommand, which typer would take for its own."""


def carry_out(arguments: Sequence[str], subcommands: Mapping[str, Subcommand]) -> int:
    """Carry out a command line on a table of subcommands; returns the exit code, see `flexcim.cli.main`.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C.
    """
    try:
        with watched_output():
            return _run(arguments, subcommands)
    except ClosedPipeError:
        return _CLOSED_PIPE
    except FlexCiMError as error:
        print(f"flexcim: {error}", file=sys.stderr)
        return _USAGE_ERROR
    except _InterruptedError:
        raise KeyboardInterrupt from None


def _run(arguments: Sequence[str], subcommands: Mapping[str, Subcommand]) -> int:
    if not arguments:
        _run(["--help"], subcommands)
        return _USAGE_ERROR
    called = _called(arguments)
    if called is not None and called not in subcommands:
        near = difflib.get_close_matches(called, subcommands, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(subcommands)}"
        raise FlexCiMError(f"unknown subcommand {called!r}; {hint}")
    # Not 'app()', which would replace sys.excepthook.
    command = typer.main.get_command(_build(called, subcommands))
    try:
        code = command.main(args=list(arguments), prog_name="flexcim", standalone_mode=False)
    except _USAGE_EXCEPTION as error:
        raise FlexCiMError(f"{_sentence(error)}; see '{_misused(error, arguments)} --help'") from None
    except typer.Abort:
        code = _TYPER_INTERRUPTED
    if code == _TYPER_INTERRUPTED:
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


# Old versions of typer raise click's exceptions, new ones their own; this is what all wrong usage has in common.
_USAGE_EXCEPTION: type[Exception] = typer.BadParameter.__mro__[1]


def _called(arguments: Sequence[str]) -> str | None:
    """The subcommand's name: the first word, as the options before it take no values."""
    return next((argument for argument in arguments if not argument.startswith("-")), None)


def _misused(error: Any, arguments: Sequence[str]) -> str:
    """The command whose usage is wrong, from ``flexcim`` on."""
    if error.ctx:
        return str(error.ctx.command_path)
    # Of an option that lacks its value, or has one too many, typer does not say whose it is.
    called = _called(arguments)
    own = arguments if called is None else arguments[: arguments.index(called)]
    at_top = any(word.split("=")[0] == getattr(error, "option_name", None) for word in own)
    return "flexcim" if called is None or at_top else f"flexcim {called}"


def _sentence(error: Any) -> str:
    """Typer's answer to wrong usage as one sentence."""
    # Typer's newer versions say of each ValueError that it is one.
    message = " ".join(error.format_message().split()).rstrip(".").replace(": Value error, ", ": ")
    return f"{message[:1].lower()}{message[1:]}"


def _build(called: str | None, subcommands: Mapping[str, Subcommand]) -> typer.Typer:
    """The command line, with the function of the one subcommand that is called."""
    app = typer.Typer(add_completion=False)
    app.callback()(_top)
    for name, subcommand in subcommands.items():
        if name == called:
            app.command(name)(_interruptible(subcommand.load()))
        else:
            app.command(name, help=subcommand.help)(_not_called)
    return app


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
            # Hardware that is described but not used yet warns when it is dropped, as it is from here on.
            warnings.simplefilter("ignore")
            raise _InterruptedError from None

    return call
