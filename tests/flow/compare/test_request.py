"""What a comparison is asked for: ways that mean something, and a text."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from flexcim.config.macro import PRESETS
from flexcim_flow.common.options import Update
from flexcim_flow.compare.request import ComparisonError, ComparisonRequest, ways_of

pytestmark = pytest.mark.torch


def test_nothing_to_compare_is_refused():
    with pytest.raises(ComparisonError, match=r"^uniform lsq at 0\.5, seed 1 is asked for twice$"):
        ways_of(["uniform"], [Update.LSQ], None, [0.5], [1, 1])


def test_a_comparison_needs_a_text():
    ways = ways_of(["uniform"], [], None, [0.5], [0])
    with pytest.raises(ComparisonError, match=r"^a comparison needs a text to evaluate on$"):
        ComparisonRequest(model="model", calibration="text", ways=ways)


@pytest.fixture
def request_for(tmp_path):
    """A request whose files are there."""
    (tmp_path / "model").mkdir()
    for name in ("calibration", "evaluation", "questions"):
        (tmp_path / name).write_text(name)
    return ComparisonRequest(
        model=tmp_path / "model",
        ways=ways_of(["uniform", "owl"], [], "ria", [0.5], [3]),
        calibration=tmp_path / "calibration",
        evaluation=tmp_path / "evaluation",
        device="cpu",
    )


def test_the_facts_tell_every_option_apart(request_for, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    changes = {
        "model": tmp_path / "other",
        "calibration": tmp_path / "evaluation",
        "evaluation": tmp_path / "calibration",
        "samples": 5,
        "length": 9,
        "stride": 3,
        "device": "cpu:0",
        "config": PRESETS["board"],
        "ways": request_for.ways[:1],
        "vectors": 5,
        "questions": tmp_path / "questions",
    }
    assert changes.keys() == {field.name for field in fields(ComparisonRequest)}
    facts = request_for.facts()
    assert facts["ways"] == ["uniform ria at 0.5, seed 3", "owl ria at 0.5, seed 3"]
    for name, value in changes.items():
        assert replace(request_for, **{name: value}).facts() != facts, name
    assert request_for.facts() == facts


def test_each_way_is_pruned_as_the_comparison_is_set(request_for):
    found = replace(request_for, samples=5, length=9, stride=3, device="cpu:0", config=PRESETS["board"])
    for way in found.ways:
        request = found.of(way)
        assert (request.method, request.score, request.seed) == (way.method, "ria", 3)
        assert (request.model, request.calibration, request.config) == (found.model, found.calibration, found.config)
        assert (request.samples, request.length, request.device) == (5, 9, "cpu:0")
        assert request.evaluation is None  # the comparison measures by itself
