"""The plan and the report: they tell each layer, and what was measured."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest

from flexcim_flow.measure.evaluation import Evaluation
from flexcim_flow.prune.report import evaluation_report
from tests.support.tiny_models import OTHER_TEXT

pytestmark = pytest.mark.torch

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_the_written_plan_and_report_tell_each_layer(result, written):
    plan = tomllib.loads((written / "plan.toml").read_text(encoding="utf-8"))
    report = json.loads((written / "report.json").read_text(encoding="utf-8"))
    assert plan["sparsity"] == report["sparsity"] == result.sparsity
    assert plan["target"] == report["target"] == 0.6
    assert list(plan["layers"]) == [layer.name for layer in result.layers]
    for layer, entry in zip(result.layers, report["layers"], strict=True):
        planned = plan["layers"][layer.name]
        assert planned == {
            "pattern": str(layer.pattern),
            "chosen": str(layer.pattern),
            "sparsity": layer.sparsity,
            "cost": layer.choice.cost,
            "why": layer.choice.reason,
        }
        assert entry["groups"] == layer.tiling.groups
        assert entry["tiles"] == len(layer.tiling.tiles)
    assert (plan["method"], plan["score"], plan["update"]) == ("paper", "wanda", "none")
    assert report["budget"] == plan["budget"] == "sparsity of at least 60.00%"
    assert report["calibration"] == {"samples": 5, "length": 40, "seed": 7}
    assert report["evaluation"]["quantized"]["bits_per_byte"] == result.evaluations.quantized.bits_per_byte
    assert report["evaluation"]["dense"]["bytes"] == len(OTHER_TEXT.encode())


def test_what_was_measured_is_told_with_its_error():
    told = evaluation_report(Evaluation(np.array([6.0, 2.0]), np.array([3, 1]), 256, 8))
    assert (told["loss"], told["predicted_tokens"], told["bytes"]) == (2.0, 4, 8)
    assert told["bits_per_byte"] == pytest.approx((8 / math.log(2) + 8) / 8)  # the first token is one of 256
    assert told["perplexity"] == pytest.approx(math.exp(2))
    assert told["standard_error"] == 0.0


def test_a_text_of_one_window_has_no_standard_error():
    assert evaluation_report(Evaluation(np.array([6.0]), np.array([3]), 256, 8))["standard_error"] is None
