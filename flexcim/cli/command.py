"""A table of subcommands, each of which is imported only when it is called: from its wing, or from another package."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import MappingProxyType
from typing import Any

import typer

from flexcim.cli.output import ClosedPipeError, watched_output
from flexcim.errors import FlexCiMError
from flexcim.plugins import PluginError, discovered, loaded, provider

__all__ = ["GROUP", "SUBCOMMANDS", "Subcommand", "carry_out"]

GROUP = "flexcim.commands"
"""The group of entry points by which other packages add subcommands: functions, of which typer makes commands."""

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
    extra : str
        The extras of the package that bring the libraries that it needs, with commas between them.
    """

    module: str
    function: str
    help: str
    extra: str = ""

    def load(self) -> Callable[..., Any]:
        """Import the subcommand's function."""
        function: Callable[..., Any] = getattr(importlib.import_module(self.module), self.function)
        return function


@dataclass(frozen=True)
class AddedSubcommand:
    """A subcommand that another package adds.

    Parameters
    ----------
    entry : EntryPoint
        Where it lives.
    """

    entry: EntryPoint

    @property
    def help(self) -> str:
        """The line that ``flexcim --help`` shows, for which nothing is imported."""
        return f"Added by {provider(self.entry)}."

    @property
    def extra(self) -> str:
        """None: what the package lacks is not FlexCiM's to bring."""
        return ""

    def load(self) -> Callable[..., Any]:
        """Import the subcommand's function.

        Raises
        ------
        PluginError
            If that fails, or it is nothing that typer can make a command of.
        """
        function: Callable[..., Any] = loaded(self.entry)
        trial = typer.Typer(add_completion=False)
        try:
            trial.command()(function)
            typer.main.get_command(trial)
        except Exception as error:
            raise PluginError(
                f"{provider(self.entry)} adds {self.entry.name!r} to {GROUP}, but typer can make no command of "
                f"{self.entry.value} ({' '.join(str(error).split())})"
            ) from error
        return function


# Modules are named, not imported: the ground floor must not import upwards, and torch or Amaranth take seconds.
SUBCOMMANDS: Mapping[str, Subcommand] = MappingProxyType(
    {
        "generate": Subcommand(
            "flexcim_hw.cli.generate", "generate", "Generate the Verilog of a macro or an accelerator."
        ),
        "verify": Subcommand(
            "flexcim_sim.cli.verify", "verify", "Check generated Verilog against the golden model.", extra="sim"
        ),
        "silicon": Subcommand(
            "flexcim_hw.cli.silicon", "silicon", "Measure area and clock in a library of cells.", extra="silicon"
        ),
        "prune": Subcommand(
            "flexcim_flow.cli.prune",
            "prune",
            "Prune a model, with a pattern for each layer, and pack it.",
            extra="flow",
        ),
        "compare": Subcommand(
            "flexcim_flow.cli.compare", "compare", "Prune a model in several ways, and measure each.", extra="flow"
        ),
        "nest": Subcommand(
            "flexcim_flow.cli.nest", "nest", "Give a pruned model a denser plan that shares its weights.", extra="flow"
        ),
        "compile": Subcommand("flexcim.cli.compile", "compile_packed", "Compile a packed model for an accelerator."),
        "cycles": Subcommand(
            "flexcim.cli.cycles", "cycles", "Tell what each layer costs, and what bounds it.", extra="plots"
        ),
        "generate-text": Subcommand(
            "flexcim_sim.cli.generate_text",
            "generate_text",
            "Let a pruned model write on an accelerator.",
            extra="flow,sim",
        ),
        "demo": Subcommand(
            "flexcim_sim.cli.demo",
            "demo",
            "Prune models, run layers on generated RTL, show it in a page.",
            extra="flow,sim",
        ),
        "presets": Subcommand("flexcim.cli.presets", "presets", "List the configurations that have a name."),
    }
)
"""FlexCiM's own subcommands, in the order in which ``flexcim --help`` shows them. NAME is in ``<wing>/cli/NAME.py``."""


class _InterruptedError(Exception):
    """Ctrl-C inside a subcommand, which typer would take for its own."""


def carry_out(arguments: Sequence[str], subcommands: Mapping[str, Subcommand]) -> int:
    """Carry out a command line; returns the exit code, see `flexcim.cli.main`.

    Parameters
    ----------
    arguments : sequence of str
        The words after ``flexcim``.
    subcommands : mapping of str to Subcommand
        FlexCiM's own; those of other packages are sought only where their names matter.

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


def _run(arguments: Sequence[str], own: Mapping[str, Subcommand]) -> int:
    if not arguments:
        _run(["--help"], own)
        return _USAGE_ERROR
    called = _called(arguments)
    subcommands: dict[str, Subcommand | AddedSubcommand] = dict(own)
    if called not in own:
        subcommands |= {name: AddedSubcommand(entry) for name, entry in discovered(GROUP, taken=own).items()}
    if called is not None and called not in subcommands:
        near = difflib.get_close_matches(called, subcommands, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(subcommands)}"
        raise FlexCiMError(f"unknown subcommand {called!r}; {hint}")
    try:
        # Not 'app()', which would replace sys.excepthook.
        command = typer.main.get_command(_build(called, subcommands))
        code = command.main(args=list(arguments), prog_name="flexcim", standalone_mode=False)
    except ModuleNotFoundError as error:
        extra = subcommands[called].extra if called else ""
        library = error.name or ""
        # What lacks a dot is a library; a part that a library or FlexCiM itself lacks is a bug.
        if not extra or not library or "." in library:
            raise
        raise FlexCiMError(
            f"{called} needs {library}, which is not installed: pip install 'flexcim[{extra}]'"
        ) from None
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


def _build(called: str | None, subcommands: Mapping[str, Subcommand | AddedSubcommand]) -> typer.Typer:
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
