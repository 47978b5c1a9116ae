"""Files that are either there as a whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = [
    "check_writable",
    "named_folder",
    "new_folder",
    "numbered_stem",
    "write_bytes",
    "write_text",
    "writing",
]


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file atomically: to a temporary file beside it, which then takes its name. An equal file is left alone.

    Raises
    ------
    OSError
        If the file cannot be written, which it names; what stood there before is unharmed.
    """
    target = Path(path)
    with contextlib.suppress(FileNotFoundError):
        if target.read_bytes() == data:
            return
    try:
        _replace(target, data)
    except OSError as error:
        error.filename, error.filename2 = str(target), None  # nobody knows the temporary file
        raise


def _replace(target: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file atomically; see `write_bytes`."""
    write_bytes(path, text.encode())


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to be filled, which takes its name, and the place of what stood there, when that has gone well.

    Raises
    ------
    OSError
        If it cannot be made; what stood there before is unharmed.
    """
    target = Path(path).resolve()
    # Beside the target, so that the renames stay within one file system. A process that is killed between the two
    # renames leaves the old folder under the second name.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.new")
    replaced = temporary.with_suffix(".old")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if target.exists():
            os.rename(target, replaced)
        try:
            os.rename(temporary, target)
        except BaseException:
            if replaced.exists():
                os.rename(replaced, target)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if target.exists():
            shutil.rmtree(replaced, ignore_errors=True)


def check_writable(*paths: str | os.PathLike[str]) -> None:
    """Make sure, before the work that fills them, that files can be written; makes the folders that they go into.

    Raises
    ------
    OSError
        If a folder cannot be made or takes no file, or a folder stands where a file is to be; it names the path.
    """
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        try:
            tempfile.TemporaryFile(dir=path.parent).close()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path.parent)) from None


@contextlib.contextmanager
def writing(
    path: str | os.PathLike[str], error: Callable[[str], Exception], kept: Callable[[], str] = str
) -> Iterator[None]:
    """Turn a failure to write, in here, into an error whose one sentence says what could not be written, and why.

    Named is the path, or what in it was in the way; what was in the way elsewhere, such as a folder above, stands
    beside the reason.

    Parameters
    ----------
    path : path
        The file or the folder that the user named.
    error : callable
        Makes the error of the sentence: its type.
    kept : callable
        Says, after a failure, what to put behind the sentence, such as what is kept of the work; by default nothing.
    """
    try:
        yield
    except OSError as failure:
        named, where = os.fspath(path), ""
        obstacle = os.fsdecode(failure.filename) if isinstance(failure.filename, (str, bytes)) else named
        if Path(obstacle).absolute().is_relative_to(Path(named).absolute()):
            named = obstacle
        elif os.path.lexists(obstacle):  # not a temporary file, which nobody knows
            where = f"{obstacle}: "
        raise error(f"{named}: cannot be written ({where}{failure.strerror}){kept()}") from None


def named_folder(text: str | os.PathLike[str]) -> Path:
    """The folder that an option names; an empty name, which `Path` takes for the current folder, is a slip.

    Raises
    ------
    ValueError
        If the name is empty.
    """
    if not os.fspath(text):
        raise ValueError("a folder must have a name, not ''")
    return Path(text)


def numbered_stem(index: int, name: str) -> str:
    """The beginning of the name of a file for one of several things, whatever they are called: no other has it."""
    return f"{index:04}_{re.sub(r'[^A-Za-z0-9._-]', '_', name)[:80]}"


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
