"""A comparison from a checkpoint to a folder of results that can be killed at any point and goes on from there."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from flexcim.config import MacroConfig
from flow.comparison import Comparison, ComparisonError, Way, compare
from flow.comparison_files import write_comparison
from flow.journal import Journal, file_facts, folder_facts
from flow.multiple_choice import read_questions

__all__ = ["compare_to"]

_CONTENT = ("comparison.csv", "comparison.json", "cycles.png", "sparsity.png")


def compare_to(
    output: str | os.PathLike[str],
    model_path: str | os.PathLike[str],
    ways: Sequence[Way],
    *,
    calibration_text: str | os.PathLike[str],
    evaluation_text: str | os.PathLike[str],
    questions: str | os.PathLike[str] | None,
    config: MacroConfig,
    samples: int,
    length: int | None,
    stride: int | None,
    vectors: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Compare ways of pruning, and write the result; each row is kept beside the output until all are there.

    Parameters
    ----------
    output : path
        Folder to write: absent, empty, or an earlier comparison, which is replaced.
    questions : path, optional
        JSONL file of multiple-choice questions.
    model_path, ways, calibration_text, evaluation_text, config, samples, length, stride, vectors, progress
        As in `flow.comparison.compare`.

    Raises
    ------
    FlexCiMError
        If an input or an option cannot be used, or the output cannot be written; the message is one sentence.
    """
    target = Path(output).resolve()
    _check_replaceable(target, output)
    asked = () if questions is None else read_questions(questions)
    run: dict[str, Any] = {
        "ways": [str(way) for way in ways],
        "config": config.to_mapping(),
        "samples": samples,
        "length": length,
        "stride": stride,
        "vectors": vectors,
        "model": folder_facts(model_path),
        "calibration": file_facts(calibration_text),
        "evaluation": file_facts(evaluation_text),
        "questions": file_facts(questions),
        "versions": [torch.__version__, transformers.__version__],
    }
    partial = target.with_name(f"{target.name}.partial")
    try:
        with Journal(partial, run) as journal:
            comparison = compare(
                model_path,
                ways,
                calibration_text=calibration_text,
                evaluation_text=evaluation_text,
                config=config,
                samples=samples,
                length=length,
                stride=stride,
                vectors=vectors,
                questions=asked,
                journal=journal,
                progress=progress,
            )
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
