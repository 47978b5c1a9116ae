"""The standard output, watched: that it cannot be written is the user's to mend, not a bug."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from flexcim.errors import FlexCiMError

__all__ = ["ClosedPipeError", "OutputError", "watched_output"]


class OutputError(FlexCiMError):
    """The standard output cannot be written."""


class ClosedPipeError(OutputError):
    """Whoever read the standard output has seen enough, such as ``head``."""


class _Watched:
    """A text stream whose errors have a type of their own, apart from those of all other files."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _errors():
            return self._stream.write(text)

    def flush(self) -> None:
        with _errors():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = ClosedPipeError if error.errno == errno.EPIPE else OutputError
        raise kind(f"the standard output cannot be written ({error.strerror})") from None


@contextlib.contextmanager
def watched_output() -> Iterator[None]:
    """Turn every failure to write or flush the standard output, in here and on leaving, into an `OutputError`."""
    stream = sys.stdout
    if stream is None:  # a closed one; Python drops what is printed
        yield
        return
    watched = _Watched(stream)
    try:
        with contextlib.redirect_stdout(cast(TextIO, watched)):
            yield
        watched.flush()
    except OutputError:
        _discard(stream)
        raise


def _discard(stream: TextIO) -> None:
    """Let go of what is left in the buffer, which Python would try to write once more at its end."""
    with contextlib.suppress(OSError, ValueError):  # a stream that is no file has no number
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
