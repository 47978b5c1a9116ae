"""A comparison on disk: JSON and CSV for programs, plots for people."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from flexcim.files import write_bytes, write_text
from flexcim_flow.compare.result import Comparison, Row

__all__ = ["FORMAT", "write_comparison"]

FORMAT = "flexcim comparison"
_SCHEMA_VERSION = 1


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """Write ``comparison.json``, ``comparison.csv``, ``sparsity.png`` and ``cycles.png``.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    write_text(folder / "comparison.json", json.dumps(_document(comparison), indent=2) + "\n")
    write_text(folder / "comparison.csv", _table(comparison))
    by_sparsity = _figure(
        comparison, "share of weights that are zero", lambda row: row.sparsity, "Quality against sparsity"
    )
    write_bytes(folder / "sparsity.png", by_sparsity)
    by_cycles = _figure(
        comparison,
        f"cycles of all layers for {comparison.vectors} vectors, of the dense model's",
        lambda row: row.cycles / row.cycles_dense,
        "Quality against cycles",
    )
    write_bytes(folder / "cycles.png", by_cycles)


def _document(comparison: Comparison) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "schema_version": _SCHEMA_VERSION,
        "model": comparison.model,
        "vectors": comparison.vectors,
        "accuracy_dense": comparison.accuracy_dense,
        "rows": [_plain(row) for row in comparison.rows],
    }


def _plain(row: Row) -> dict[str, Any]:
    """The row's values, and None for a standard error that a single window or question does not have."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value for name, value in asdict(row).items()
    }


def _table(comparison: Comparison) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_plain(row) for row in comparison.rows)
    return file.getvalue()


def _figure(comparison: Comparison, xlabel: str, place: Callable[[Row], float], title: str) -> bytes:
    """A PNG of the added loss along something, a line for each method, score and update."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for label in dict.fromkeys(row.label for row in comparison.rows):
        points = sorted(
            (place(row), row.loss_added, 0.0 if math.isnan(row.standard_error) else row.standard_error)
            for row in comparison.rows
            if row.label == label
        )
        x, y, error = zip(*points, strict=True)
        axes.errorbar(x, y, yerr=error, marker="o", capsize=3, label=label)
    axes.set_xlabel(xlabel)
    axes.set_ylabel("added loss, nats per token")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(title="method, score, update")
    figure.suptitle(f"{title}: {comparison.model}")
    file = io.BytesIO()
    # Without the version of Matplotlib, equal figures are equal files.
    figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    return file.getvalue()
