"""Requests to nest a model: what means nothing is refused, and all that a result depends on is told."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from flexcim.config.pattern import Pattern
from flexcim_flow.common.seeds import SeedError
from flexcim_flow.common.setting import RequestError
from flexcim_flow.nest.request import NestRequest

pytestmark = pytest.mark.torch


@pytest.fixture
def request_for(tmp_path):
    """A request whose files are there."""
    for folder in ("model", "sparser/checkpoint", "sparser/packed"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("calibration", "evaluation"):
        (tmp_path / name).write_text(name)
    return NestRequest(
        model=tmp_path / "model",
        sparser=tmp_path / "sparser",
        calibration=tmp_path / "calibration",
        evaluation=tmp_path / "evaluation",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.5}, "the denser plan's share must be between 0 and 1, not 1.5"),
        ({"share": -0.5}, "the denser plan's share must be between 0 and 1, not -0.5"),
        ({"share": float("nan")}, "the denser plan's share must be between 0 and 1, not nan"),
        ({"samples": 0}, "samples must be at least 1, not 0"),
    ],
)
def test_what_means_nothing_is_refused(options, message):
    with pytest.raises(RequestError) as error:
        NestRequest(model="model", sparser="sparser", calibration="text", **options)
    assert str(error.value) == message


def test_a_seed_of_more_than_64_bits_is_refused():
    with pytest.raises(SeedError, match=rf"^a seed must be between 0 and {2**64 - 1}, not {2**64}$"):
        NestRequest(model="model", calibration="text", sparser="pruned", seed=2**64)


def test_the_facts_tell_every_option_apart(request_for, tmp_path):
    for folder in ("other", "elsewhere/checkpoint", "elsewhere/packed"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "other" / "config.json").write_text("{}")
    (tmp_path / "elsewhere" / "packed" / "manifest.json").write_text("{}")
    changes = {
        "model": tmp_path / "other",
        "calibration": tmp_path / "evaluation",
        "evaluation": None,
        "samples": 5,
        "length": 9,
        "stride": 3,
        "sparser": tmp_path / "elsewhere",
        "rest": Pattern(2, 8),
        "share": 0.5,
        "seed": 1,
        "device": "cpu:0",
    }
    assert changes.keys() == {field.name for field in fields(NestRequest)}
    facts = request_for.facts()
    for name, value in changes.items():
        assert replace(request_for, **{name: value}).facts() != facts, name
    assert request_for.facts() == facts


@pytest.mark.parametrize("part", ["checkpoint", "packed"])
def test_both_parts_of_the_pruned_model_count(part, request_for, tmp_path):
    facts = request_for.facts()
    (tmp_path / "sparser" / part / "file").write_text("changed")
    assert request_for.facts() != facts
