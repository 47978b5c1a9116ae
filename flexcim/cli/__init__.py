"""The ``flexcim`` command.

This module imports next to nothing before `main` has begun: an interrupt must find it ready to answer, even in the
tenths of a second in which Python loads the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

_INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the signal's number, as shells have it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after ``flexcim``; by default, those of the process.

    Returns
    -------
    int
        The exit code: 0; 2 for bad input or an output that cannot be written, whose one sentence goes to the standard
        error; 130 after Ctrl-C.
    """
    hook = sys.unraisablehook
    sys.unraisablehook = _interrupt_again
    try:
        from flexcim.cli.command import SUBCOMMANDS, carry_out

        return carry_out(sys.argv[1:] if arguments is None else arguments, SUBCOMMANDS)
    except KeyboardInterrupt:
        # What is left half-made is dropped now, and says so in warnings that would hide the one line that matters.
        import warnings

        warnings.simplefilter("ignore")
        print("flexcim: interrupted", file=sys.stderr)
        return _INTERRUPTED
    finally:
        sys.unraisablehook = hook


def _interrupt_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Answer an exception that Python drops since it came in a destructor; an interrupt must not be lost like that."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    import signal
    import threading

    # Not at once, which would be in the destructor still.
    main_thread = threading.main_thread().ident
    threading.Timer(0.01, signal.pthread_kill, (main_thread, signal.SIGINT)).start()
