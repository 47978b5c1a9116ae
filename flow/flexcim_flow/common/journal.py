"""The work folder of a run that may be killed: what is finished stays, and the same command goes on from there."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from flexcim import files
from flexcim.errors import FlexCiMError

__all__ = ["Journal", "JournalError", "file_facts", "folder_facts", "journalled"]

_Result = TypeVar("_Result")

_RUN = "run.json"
_RESULT = "result"
_NOTES = "notes"
_FINISHED = {"finished": True}

_SOON_SECONDS = 60.0
"""What a run that is refused has finished in less time is not kept: to do it again costs less than a folder in the way
of the corrected command."""


class JournalError(FlexCiMError):
    """A work folder that cannot be used; the message is one sentence that names it."""


class Journal:
    """The work folder of one run; a context that holds it for this process.

    Everything in it appears by one rename, so a process that is killed leaves nothing half-written behind. Beside
    finished parts of the result it keeps notes of what took long to find. A run that ends by a FlexCiMError
    mostly would again: what it has finished is kept only if an earlier process began it, it took long, or the disk is
    to blame.

    Parameters
    ----------
    folder : path
        The folder; absent, empty, or left over from an earlier process.
    run : mapping
        All that the result depends on, as JSON's plain values: the options, and what the input files are.

    Raises
    ------
    JournalError
        On entering the context: if the folder belongs to a run with another ``run``, to a process that is still at
        work, or to somebody else.
    OSError
        If the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], run: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        # Through JSON and back, so that it can be compared with what is read.
        self._run: dict[str, Any] = json.loads(json.dumps(run))
        self._lock = -1
        self._begun: float | None = None  # None where an earlier process began the run

    def __enter__(self) -> Journal:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder, os.O_RDONLY)
        try:
            self._hold()
            self._check()
            self._tidy()
        except BaseException:
            os.close(self._lock)
            raise
        self.result.mkdir(exist_ok=True)
        (self.folder / _NOTES).mkdir(exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Once the run is finished there is no folder any more, whatever fails then.
        if error is not None and self.folder.exists() and not self._worth_keeping(error):
            shutil.rmtree(self.folder)
        os.close(self._lock)

    def _worth_keeping(self, error: BaseException) -> bool:
        """Whether anything is finished that a later process could use."""
        soon = self._begun is not None and time.monotonic() - self._begun < _SOON_SECONDS
        # A disk that is full or fails is no fault of the request, whichever sentence says so.
        refused = isinstance(error, FlexCiMError) and not isinstance(error.__context__, OSError)
        if soon and refused:
            return False
        return any(path.is_file() for path in self.folder.rglob("*") if path.name != _RUN)

    def _hold(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalError(f"{self.folder}: another process is at work on this output") from None

    def _tidy(self) -> None:
        """Delete what a process was writing when it was killed: it has a name with a dot before it."""
        for path in list(self.folder.rglob(".*")):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _check(self) -> None:
        """Take the folder over from an equal run, or begin it."""
        run = self.folder / _RUN
        if not run.exists():
            foreign = sorted(entry.name for entry in self.folder.iterdir() if not entry.name.startswith(f".{_RUN}."))
            if foreign:
                raise JournalError(
                    f"{self.folder}: holds {foreign[0]!r}, which is no unfinished run, so it is not used"
                )
            self._begin()
        before = json.loads(run.read_bytes())
        if before == _FINISHED:
            # The earlier process was killed while it cleaned up.
            self._clear()
            self._begin()
            return
        if before.keys() != self._run.keys():
            raise JournalError(
                f"{self.folder}: holds an unfinished run of another command or version of flexcim; "
                "finish it with that, or delete the folder"
            )
        for name in self._run:
            if before.get(name) != self._run[name]:
                raise JournalError(
                    f"{self.folder}: holds an unfinished run with {name} {_short(before.get(name))}, "
                    f"not {_short(self._run[name])}; run that command again to finish it, or delete the folder"
                )

    def _begin(self) -> None:
        files.write_text(self.folder / _RUN, json.dumps(self._run, indent=2) + "\n")
        self._begun = time.monotonic()

    @property
    def result(self) -> Path:
        """Folder of the finished parts of the result."""
        return self.folder / _RESULT

    @property
    def checkpoint(self) -> Path:
        """Folder in it for the checkpoint, which begins as the shards of the blocks that are pruned."""
        return _made(self.result / "checkpoint")

    @property
    def pruned(self) -> Path:
        """Folder for the shards of pruned blocks that are not part of the result yet."""
        return _made(self.folder / "pruned")

    @property
    def recovered(self) -> Path:
        """Folder for the shards of a model that was trained; it must appear as a whole."""
        return self.folder / "recovered"

    def once(self, name: str, find: Callable[[], Any]) -> Any:
        """What ``find`` gives, as JSON's plain values; asked once for all processes that work on this run."""
        note = self.folder / _NOTES / f"{name}.json"
        if not note.exists():
            files.write_text(note, json.dumps(find()) + "\n")
        return json.loads(note.read_bytes())

    def finish(self, target: Path) -> None:
        """Let the result appear as a folder, in the place of an earlier one, and delete the rest.

        Killed between the two renames, the earlier result waits in the work folder, and the next process puts the new
        one in its place.
        """
        earlier = self.folder / "earlier"
        shutil.rmtree(earlier, ignore_errors=True)
        if target.exists():
            target.rename(earlier)
        try:
            self.result.rename(target)
        except OSError:
            if earlier.exists():
                earlier.rename(target)
            raise
        files.write_text(self.folder / _RUN, json.dumps(_FINISHED))
        self._clear()
        shutil.rmtree(self.folder)

    def _clear(self) -> None:
        """Delete everything but the note of what run this is."""
        for entry in self.folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)


def journalled(
    output: str | os.PathLike[str],
    facts: Mapping[str, Any],
    work: Callable[[Journal, Path], _Result],
    error: type[FlexCiMError],
) -> _Result:
    """Carry out a run whose finished parts stay in ``<output>.partial`` until all is done.

    Parameters
    ----------
    output : path
        The folder that the result is to become.
    facts : mapping
        All that the result depends on, as `Journal` takes it.
    work : callable
        Does the work with a journal, and lets its result appear as the folder that it is given, by `Journal.finish`.
    error : type
        The error of a folder that cannot be written.

    Raises
    ------
    FlexCiMError
        If the partial folder belongs to another run, or the output cannot be written.
    """
    target = Path(output).resolve()
    partial = target.with_name(f"{target.name}.partial")

    def kept() -> str:
        return f"; what is finished is kept in {partial}" if partial.exists() else ""

    with files.writing(output, error, kept), Journal(partial, facts) as journal:
        return work(journal, target)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:36]} ..."


def file_facts(path: str | os.PathLike[str] | None) -> str | None:
    """The SHA-256 of a file; None if there is none, or it cannot be read, which whoever reads it will say."""
    try:
        return None if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return None


def folder_facts(path: str | os.PathLike[str]) -> str:
    """A checksum of names, sizes and times of change of a folder's files; weights are too large to be read for it."""
    entries = sorted(Path(path).iterdir()) if Path(path).is_dir() else []
    facts = [(entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in entries if entry.is_file()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
