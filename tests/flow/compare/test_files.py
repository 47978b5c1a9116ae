"""A comparison on disk: the files agree with each other."""

from __future__ import annotations

import csv
import json

import pytest

pytestmark = pytest.mark.torch


def test_the_files_agree_and_the_plots_are_pictures(written):
    assert sorted(path.name for path in written.iterdir()) == [
        "comparison.csv",
        "comparison.json",
        "cycles.png",
        "sparsity.png",
    ]
    rows = json.loads((written / "comparison.json").read_text())["rows"]
    with open(written / "comparison.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["method"] for row in table] == [row["method"] for row in rows]
    assert [float(row["loss_added"]) for row in table] == [row["loss_added"] for row in rows]
    for name in ("cycles.png", "sparsity.png"):
        assert (written / name).read_bytes().startswith(b"\x89PNG")
