"""What the demonstration found: its JSON, its verdict, and what is wrong, in sentences."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from flexcim_sim.demo.instances import SMALL
from flexcim_sim.demo.report import short_name
from tests.support.demo_reports import made_up, run, vector


def test_the_json_has_what_is_promised():
    document = json.loads(made_up().to_json())
    (entry,) = document["rtl"]
    model = document["models"][0]
    of_default = {"name": "llama", "sparsity_target": 0.6, "sparsity": 0.625, "bpb_dense": 1.5, "bpb_int8": 1.7654}
    assert of_default.items() <= model.items()
    assert {"label": "published method", "bpb_pruned": 4.25, "method": "uniform"}.items() <= model["published"].items()
    assert {"name", "n", "m", "groups", "tiles"} <= set(model["layers"][0])
    promised = {
        "model": "llama",
        "layer": "model.layers.0.mlp.up_proj",
        "simulator": "verilator",
        "preset": "flexcim",
        "outputs_compared": 4096,
        "mismatches": 0,
        "cycles_rtl": 100,
        "cycles_model": 100,
        "cycles_dense_rtl": 350,
        "speedup": 3.5,
        "speedup_limit": 4.0,
    }
    assert promised.items() <= entry.items()
    assert document["vector"]["results"] == [-5012, 77]
    assert document["vector"]["traces"]["results"]["valid"].index(True) == 7
    assert (document["seconds"], document["evaluated_bytes"], document["failures"]) == (12.3, 49152, [])


def test_only_the_runs_that_the_cycles_are_for_count_as_measured():
    report = made_up()
    first, second = report.models
    assert report.measured(first, first.layers[0]) is report.rtl[0]
    assert report.measured(first, first.layers[1]) is None
    assert report.measured(second, second.layers[0]) is None
    for other in ({"vectors": 16}, {"cells": SMALL.cells}):
        changed = replace(report, rtl=[replace(report.rtl[0], **other)])
        assert changed.measured(first, first.layers[0]) is None


def test_the_verdict_counts_simulations():
    assert made_up().verdict == (
        "RTL equals the golden model in 3 of 3 simulations (8,194 outputs compared bit for bit); "
        "cycles equal the cycle model in 3 of 3."
    )
    worse = made_up(sparse=run(100, mismatches=1), dense=run(350, cycles_rtl=351))
    assert "in 2 of 3 simulations" in worse.verdict
    assert worse.verdict.endswith("cycles equal the cycle model in 2 of 3.")
    silent = made_up(sparse=run(0, outputs_compared=0, message="the macro stands still"))
    assert "in 2 of 3 simulations" in silent.verdict
    assert silent.verdict.endswith("in 2 of 3.")


WRONG = [
    (
        {"sparse": run(mismatches=7)},
        "llama, model.layers.0.mlp.up_proj in verilator on flexcim 4x32x32: "
        "7 of 4096 outputs differ from the golden ones",
    ),
    ({"dense": run(350, mismatches=1)}, "on dense 4x32x32: 1 of 4096 outputs differ from the golden ones"),
    ({"sparse": run(cycles_rtl=101)}, "on flexcim 4x32x32: 101 cycles in the RTL, but 100 by the cycle model"),
    ({"dense": run(350, cycles_rtl=349)}, "on dense 4x32x32: 349 cycles in the RTL, but 350 by the cycle model"),
    ({"sparse": run(outputs_compared=0)}, "on flexcim 4x32x32: 0 of 0 outputs differ from the golden ones"),
    ({"dense": run(message="the macro stands still")}, "on dense 4x32x32: the macro stands still"),
    (
        {"vector": vector(run=run(8, cycles_rtl=9))},
        "llama, a vector of model.layers.0.mlp.up_proj in icarus on flexcim 4x4x4: "
        "9 cycles in the RTL, but 8 by the cycle model",
    ),
]


@pytest.mark.parametrize(("wrong", "sentence"), WRONG)
def test_whatever_is_wrong_is_named(wrong, sentence):
    report = made_up(**wrong)
    assert [failure for failure in report.failures if failure.endswith(sentence)] == [*report.failures]
    assert json.loads(report.to_json())["failures"] == [*report.failures] != []


def test_a_run_without_results_has_no_speed_up():
    assert made_up(sparse=run(0)).rtl[0].speedup == 0


@pytest.mark.parametrize(
    ("path", "short"),
    [
        ("model.layers.0.mlp.down_proj", "0.down_proj"),
        ("backbone.layers.12.mixer.in_proj", "12.in_proj"),
        ("transformer.h.3.experts.1.up", "3.up"),
        ("head", "head"),
    ],
)
def test_short_names(path, short):
    assert short_name(path) == short
