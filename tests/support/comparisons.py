"""What a small comparison needs: a model, two texts and a question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.support.tiny_models import OTHER_TEXT, TEXT, save_tiny, tiny_llama

QUESTION = {"context": "In the beginning was ", "choices": ["the word", "all"], "answer": 0}


def comparison_inputs(folder: Path) -> tuple[Path, ...]:
    """A model, a text to calibrate on, one to measure on, and questions, in a folder."""
    model = save_tiny(folder / "model", tiny_llama())
    paths = folder / "text.txt", folder / "other.txt", folder / "questions.jsonl"
    for path, text in zip(paths, (TEXT, OTHER_TEXT[:600], json.dumps(QUESTION)), strict=True):
        path.write_text(text, encoding="utf-8")
    return model, *paths


def words(inputs: Sequence[Path], output: Path, *more: object) -> list[str]:
    """The command line that compares on them."""
    model, text, other, questions = inputs
    options = ["--calibration", text, "--evaluate", other, "--questions", questions, "--samples", 4, "--length", 32]
    return ["compare", *map(str, [model, "-o", output, *options, *more])]
