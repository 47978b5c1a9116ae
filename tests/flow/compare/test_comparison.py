"""Comparisons: each row is what pruning by itself gives, measured on what no calibration has seen."""

from __future__ import annotations

import json

import pytest

from flexcim.config.macro import PRESETS
from flexcim.config.pattern import Pattern
from flexcim_flow.choice.budgets import CycleBudget
from flexcim_flow.common.options import Update
from flexcim_flow.compare.comparison import compare
from flexcim_flow.compare.request import ComparisonRequest, ways_of
from flexcim_flow.measure.evaluation import added_loss
from flexcim_flow.prune.pruner import prune
from tests.support.prune_requests import asked

pytestmark = pytest.mark.torch


def test_each_row_is_what_pruning_by_itself_gives(inputs, written):
    model, text, other, _ = inputs
    document = json.loads((written / "comparison.json").read_text())
    assert len(document["rows"]) == 8
    assert document["accuracy_dense"] in (0.0, 1.0)
    config = PRESETS["flexcim"]
    for row in document["rows"][::3]:
        result = prune(
            asked(
                model,
                sparsity=row["sparsity_target"],
                calibration=text,
                evaluation=other,
                method=row["method"],
                update=Update(row["update"]),
                samples=4,
                length=32,
                seed=3,
            )
        )
        assert result.evaluations is not None
        assert row["sparsity"] == result.sparsity >= row["sparsity_target"]
        found = added_loss(result.evaluations.dense, result.evaluations.pruned)
        assert row["loss_added"] == pytest.approx(found.value, rel=1e-4, abs=1e-6)
        assert row["standard_error"] == pytest.approx(found.standard_error, rel=1e-3, abs=1e-6)
        integers = added_loss(result.evaluations.dense, result.evaluations.quantized)
        assert row["loss_added_int8"] == pytest.approx(integers.value, rel=1e-3, abs=1e-5)
        assert row["loss_dense"] == pytest.approx(result.evaluations.dense.loss.value, rel=1e-5)
        counted = CycleBudget(1.0, config, 64)
        layers = [(layer.tiling.outputs, layer.tiling.inputs, layer.pattern) for layer in result.layers]
        assert row["cycles"] == sum(counted.takes(rows, columns, pattern) for rows, columns, pattern in layers)
        assert row["cycles_dense"] == sum(counted.takes(rows, columns, Pattern(1, 1)) for rows, columns, _ in layers)
        assert row["accuracy"] in (0.0, 1.0)
        assert row["accuracy_standard_error"] is None  # of one question
        assert row["seconds"] > 0


def test_a_text_that_was_calibrated_on_measures_nothing(inputs):
    model, text, *_ = inputs
    ways = ways_of(["uniform"], [], None, [0.5], [0])
    with pytest.raises(ValueError, match=r"^the evaluation text shares a passage of 128 or more characters"):
        compare(ComparisonRequest(model=model, ways=ways, calibration=text, evaluation=text, samples=2, vectors=4))
