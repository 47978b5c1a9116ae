"""A run that gives a pruned model a denser plan, from two folders to one; it can be killed, and goes on from there."""

from __future__ import annotations

import json
import os
from pathlib import Path

from flexcim import files
from flexcim.packed.folder import write_packed
from flexcim_flow.common.journal import Journal, journalled
from flexcim_flow.common.steps import Progress
from flexcim_flow.nest.nester import nest_model
from flexcim_flow.nest.packing import pack_nested
from flexcim_flow.nest.report import nested_report
from flexcim_flow.nest.request import NestRequest
from flexcim_flow.nest.result import NestedResult
from flexcim_flow.prune.folder import FolderError, check_replaceable

__all__ = ["nest_to"]


def nest_to(output: str | os.PathLike[str], request: NestRequest, *, progress: Progress | None = None) -> NestedResult:
    """Nest a model and write the result: ``checkpoint/`` (the denser plan), ``packed/`` and ``report.json``.

    What is finished stays in ``<output>.partial`` until all is; the same call goes on from there.

    Parameters
    ----------
    output : path
        Folder to write; an earlier result of ``flexcim nest`` or ``prune`` is replaced.
    request : NestRequest
        What is asked for.
    progress : callable, optional
        As in `nest_model`; what is written in the end is one step more.

    Raises
    ------
    FlexCiMError
        If an input or an option cannot be used, the output cannot be written, or the partial folder belongs to a run
        with other options or inputs; the message is one sentence.
    """
    check_replaceable(output, request.model)
    check_replaceable(output, request.sparser)

    def work(journal: Journal, target: Path) -> NestedResult:
        result = nest_model(request, journal, progress=progress)
        if progress is not None:
            progress("packing and writing", 1, 1)
        result.checkpoint.save(journal.checkpoint)
        write_packed(journal.result / "packed", pack_nested(result))
        files.write_text(journal.result / "report.json", json.dumps(nested_report(result), indent=2) + "\n")
        journal.finish(target)
        result.checkpoint.weights.relocate(journal.result, target)
        return result

    return journalled(output, request.facts(), work, FolderError)
