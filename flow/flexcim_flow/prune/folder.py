"""The folder that pruning leaves: the checkpoint, the packed model, the plan and the report."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path

from flexcim import files
from flexcim.errors import FlexCiMError
from flexcim.packed.folder import write_packed
from flexcim_flow.common.journal import Journal
from flexcim_flow.prune.packing import pack
from flexcim_flow.prune.report import FORMAT, plan_document, report
from flexcim_flow.prune.result import PruneResult

__all__ = ["NESTED_FORMAT", "FolderError", "check_replaceable", "write_result"]

NESTED_FORMAT = "flexcim nested model"
"""What the report of `flexcim_flow.nest` says that it is: either kind of folder may replace one of the other."""

_CONTENT = ("checkpoint", "packed", "plan.toml", "report.json")


class FolderError(FlexCiMError):
    """A folder that cannot be written; the message is one sentence that names it."""


def check_replaceable(folder: str | os.PathLike[str], model: str | os.PathLike[str]) -> None:
    """Say before the work begins whether `write_result` may write the folder.

    Parameters
    ----------
    folder : path
        The folder to write: absent, empty, or the result of an earlier run, which will be replaced.
    model : path
        The checkpoint that is read; it must not be in the folder that is replaced.

    Raises
    ------
    FolderError
        If something is there that is not ours to replace, or the checkpoint is in it.
    """
    target, source = Path(folder).resolve(), Path(model).resolve()
    if not target.exists():
        return
    if not target.is_dir():
        raise FolderError(f"{folder}: is a file, so no folder can be written there")
    names = sorted(entry.name for entry in target.iterdir())
    foreign = [name for name in names if name not in _CONTENT]
    if names and (foreign or not _is_ours(target)):
        raise FolderError(
            f"{folder}: holds {(foreign or names)[0]!r}, which is no result of flexcim prune or nest, "
            "so it is not replaced"
        )
    if source.is_relative_to(target):
        raise FolderError(f"{folder}: holds the checkpoint {model} that is to be pruned, so it is not replaced")


def _is_ours(folder: Path) -> bool:
    try:
        document = json.loads((folder / "report.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("format") in (FORMAT, NESTED_FORMAT)


def write_result(folder: str | os.PathLike[str], result: PruneResult, journal: Journal | None = None) -> None:
    """Write ``checkpoint/``, ``packed/``, ``plan.toml`` and ``report.json``; the folder appears whole or not at all.

    Parameters
    ----------
    folder : path
        What `check_replaceable` lets pass.
    result : PruneResult
        What is written.
    journal : Journal, optional
        The journal that the model was pruned with; what is in it is not written again.

    Raises
    ------
    FolderError
        If the folder cannot be written without a journal.
    OSError
        If it cannot be written with one.
    """
    target = Path(folder).resolve()
    if journal is not None:
        _write(journal, result, target)
        return
    # Beside the target, so that the renames stay within one file system.
    work = target.with_name(f".{target.name}.{secrets.token_hex(4)}.new")
    try:
        with files.writing(folder, FolderError), Journal(work, {}) as journal:
            _write(journal, result, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write(journal: Journal, result: PruneResult, target: Path) -> None:
    result.checkpoint.save(journal.checkpoint)
    write_packed(journal.result / "packed", pack(result))
    files.write_text(journal.result / "plan.toml", plan_document(result))
    files.write_text(journal.result / "report.json", json.dumps(report(result), indent=2) + "\n")
    journal.finish(target)
    result.checkpoint.weights.relocate(journal.result, target)
