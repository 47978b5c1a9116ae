"""A comparison from a checkpoint to a folder of results that can be killed at any point and goes on from there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from flexcim_flow.common.journal import Journal
from flexcim_flow.compare.comparison import Comparison, ComparisonError, ComparisonRequest, compare
from flexcim_flow.compare.files import write_comparison

__all__ = ["compare_to"]

_CONTENT = ("comparison.csv", "comparison.json", "cycles.png", "sparsity.png")


def compare_to(
    output: str | os.PathLike[str],
    request: ComparisonRequest,
    *,
    progress: Callable[[str, int, int], None] | None = None,
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
    target = Path(output).resolve()
    _check_replaceable(target, output)
    partial = target.with_name(f"{target.name}.partial")
    try:
        with Journal(partial, request.facts()) as journal:
            comparison = compare(request, journal=journal, progress=progress)
            write_comparison(journal.result, comparison)
            journal.finish(target)
    except OSError as error:
        kept = f"; what is finished is kept in {partial}" if partial.exists() else ""
        raise ComparisonError(f"{output}: cannot be written ({error.strerror}){kept}") from None
    return comparison


def _check_replaceable(target: Path, output: str | os.PathLike[str]) -> None:
    """Raise ComparisonError if something is there that is no earlier comparison."""
    if target.exists() and not target.is_dir():
        raise ComparisonError(f"{output}: is a file, so no folder can be written there")
    foreign = sorted(entry.name for entry in target.iterdir() if entry.name not in _CONTENT) if target.exists() else []
    if foreign:
        raise ComparisonError(f"{output}: holds {foreign[0]!r}, which is no earlier comparison, so it is not replaced")
