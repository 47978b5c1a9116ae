"""A run from a checkpoint to a folder of results that can be killed at any point and goes on from there."""

from __future__ import annotations

import os
from pathlib import Path

from flexcim_flow.common.journal import Journal, journalled
from flexcim_flow.common.steps import Progress
from flexcim_flow.prune.folder import FolderError, check_replaceable, write_result
from flexcim_flow.prune.pruner import prune
from flexcim_flow.prune.request import PruneRequest
from flexcim_flow.prune.result import PruneResult

__all__ = ["prune_to"]


def prune_to(output: str | os.PathLike[str], request: PruneRequest, *, progress: Progress | None = None) -> PruneResult:
    """Prune a model and write the result, with one block's weights in memory at a time.

    What is finished stays in a folder beside the output, ``<output>.partial``, until all is; the same call goes on from
    there and gives the same bytes, if the number of threads is the same.

    Parameters
    ----------
    output : path
        Folder to write; an earlier result is replaced.
    request : PruneRequest
        What is asked for.
    progress : callable, optional
        As in `prune`; what is written in the end is one step more.

    Raises
    ------
    FlexCiMError
        If an input or an option cannot be used, the output cannot be written, or the partial folder belongs to a run
        with other options or inputs; the message is one sentence.
    """
    check_replaceable(output, request.model)

    def work(journal: Journal, target: Path) -> PruneResult:
        result = prune(request, progress=progress, journal=journal)
        if progress is not None:
            progress("packing and writing", 1, 1)
        write_result(target, result, journal)
        return result

    return journalled(output, request.facts(), work, FolderError)
