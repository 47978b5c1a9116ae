"""A comparison from a checkpoint to a folder of results that can be killed at any point and goes on from there."""

from __future__ import annotations

import os
from pathlib import Path

from flexcim_flow.common.journal import Journal, journalled
from flexcim_flow.common.steps import Progress
from flexcim_flow.compare.comparison import compare
from flexcim_flow.compare.files import write_comparison
from flexcim_flow.compare.request import ComparisonError, ComparisonRequest
from flexcim_flow.compare.result import Comparison

__all__ = ["compare_to"]

_CONTENT = ("comparison.csv", "comparison.json", "cycles.png", "sparsity.png")


def compare_to(
    output: str | os.PathLike[str], request: ComparisonRequest, *, progress: Progress | None = None
) -> Comparison:
    """Compare ways of pruning, and write the result; each row is kept beside the output until all are there.

    Parameters
    ----------
    output : path
        Folder to write: absent, empty, or an earlier comparison, which is replaced.
    request : ComparisonRequest
        What is asked for.
    progress : callable, optional
        As in `flexcim_flow.compare.comparison.compare`.

    Raises
    ------
    FlexCiMError
        If an input or an option cannot be used, or the output cannot be written; the message is one sentence.
    """
    _check_replaceable(Path(output).resolve(), output)

    def work(journal: Journal, target: Path) -> Comparison:
        comparison = compare(request, journal=journal, progress=progress)
        write_comparison(journal.result, comparison)
        journal.finish(target)
        return comparison

    return journalled(output, request.facts(), work, ComparisonError)


def _check_replaceable(target: Path, output: str | os.PathLike[str]) -> None:
    """Raise ComparisonError if something is there that is no earlier comparison."""
    if target.exists() and not target.is_dir():
        raise ComparisonError(f"{output}: is a file, so no folder can be written there")
    foreign = sorted(entry.name for entry in target.iterdir() if entry.name not in _CONTENT) if target.exists() else []
    if foreign:
        raise ComparisonError(f"{output}: holds {foreign[0]!r}, which is no earlier comparison, so it is not replaced")
