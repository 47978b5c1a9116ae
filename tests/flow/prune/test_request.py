"""Requests: what does not go together is refused, and all that a result depends on is told."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from flexcim.config.macro import PRESETS
from flexcim.config.pattern import Pattern
from flexcim_flow.choice.budgets import StorageBudget
from flexcim_flow.choice.problem import Choice
from flexcim_flow.choice.selector import SELECTORS
from flexcim_flow.common.options import ActivationScale, Granularity, Update
from flexcim_flow.common.seeds import SeedError
from flexcim_flow.common.setting import DeviceError, RequestError
from flexcim_flow.prune.plan import Plan
from flexcim_flow.prune.request import PruneRequest
from tests.support.prune_requests import asked

pytestmark = pytest.mark.torch

PLAN = Plan(Path("plan.toml"), "paper", "ria", None, {"layer": Choice(Pattern(2, 4), 0.5, "so")})


@pytest.fixture
def request_for(tmp_path):
    """A request whose files are there."""
    (tmp_path / "model").mkdir()
    for name in ("calibration", "evaluation"):
        (tmp_path / name).write_text(name)
    return asked(
        tmp_path / "model", sparsity=0.5, calibration=tmp_path / "calibration", evaluation=tmp_path / "evaluation"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "a budget or a plan must be given"),
        (
            {"plan": PLAN, "sparsity": 0.5},
            "a plan names the pattern of each layer, so that it excludes a budget",
        ),
        (
            {"plan": PLAN, "method": "measured"},
            "a plan names the pattern of each layer, so that it excludes a method",
        ),
        (
            {"plan": PLAN, "granularity": Granularity.LAYER},
            "a plan names the pattern of each layer, so that it excludes a granularity",
        ),
        ({"sparsity": 0.5, "samples": 0}, "samples must be at least 1, not 0"),
        ({"sparsity": 0.5, "length": -1}, "length must be at least 1, not -1"),
        ({"sparsity": 0.5, "stride": 0}, "stride must be at least 1, not 0"),
        ({"sparsity": 0.5, "recover": -1}, "recovery steps must be at least 0, not -1"),
        (
            {"sparsity": 0.5, "activation_percentile": 0},
            "activation percentile must be above 0 and at most 100, not 0",
        ),
        (
            {"sparsity": 0.5, "activation_percentile": 99.9},
            "activation percentile 99.9 needs activations tensor, not token, which scales each token by its own "
            "largest magnitude",
        ),
    ],
)
def test_what_means_nothing_is_refused(options, message):
    with pytest.raises(RequestError) as error:
        asked(Path("model"), calibration=Path("text"), **options)
    assert str(error.value) == message


def test_seeds_of_more_than_64_bits_are_refused():
    message = rf"^a seed must be between 0 and {2**64 - 1}, not {2**64}$"
    with pytest.raises(SeedError, match=message):
        asked(Path("model"), calibration=Path("text"), sparsity=0.5, seed=2**64)


def test_defaults_follow_the_method_and_the_plan():
    def treatment(**options):
        return str(asked(Path("model"), calibration=Path("text"), **options).treatment)

    assert treatment(sparsity=0.5) == "obs masks, lsq update"
    assert treatment(sparsity=0.5, method="owl") == "wanda masks, no update"
    assert treatment(plan=PLAN) == "ria masks, lsq update"
    assert treatment(plan=PLAN, score="obs", update=Update.OBS) == "obs masks, obs update"
    requests = [asked(Path("m"), sparsity=0.5, calibration=Path("t"), method=method) for method in SELECTORS.own]
    assert [request.chooser for request in requests if request.by_block] == ["paper"]


def test_a_device_that_is_not_there_is_named(request_for):
    with pytest.raises(DeviceError, match=r"^device quantum cannot be used \(.+\)$"):
        replace(request_for, device="quantum").facts()


def test_the_facts_tell_every_option_apart(request_for, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    changes = {
        "model": tmp_path / "other",
        "calibration": tmp_path / "evaluation",
        "evaluation": None,
        "config": PRESETS["board"],
        "samples": 5,
        "length": 9,
        "stride": 3,
        "budget": StorageBudget(0.5, PRESETS["board"]),
        "plan": PLAN,
        "method": "owl",
        "granularity": Granularity.BLOCK,
        "score": "ria",
        "update": Update.NONE,
        "seed": 1,
        "recover": 2,
        "activations": ActivationScale.TENSOR,
        "activation_percentile": 99.0,
        "device": "cpu:0",
    }
    assert changes.keys() == {field.name for field in fields(PruneRequest)}
    facts = request_for.facts()
    for name, value in changes.items():
        change = {name: value}
        if name == "plan":
            change["budget"] = None
        if name == "activation_percentile":
            change["activations"] = ActivationScale.TENSOR
        assert replace(request_for, **change).facts() != facts, name
    assert request_for.facts() == facts


def test_every_word_of_a_plan_counts():
    sums = {PLAN.checksum()}
    for choice in (Choice(Pattern(1, 4), 0.5, "so"), Choice(Pattern(2, 4), 0.25, "so"), Choice(Pattern(2, 4), 0.5, "")):
        sums.add(replace(PLAN, choices={"layer": choice}).checksum())
    sums.add(replace(PLAN, method="measured").checksum())
    sums.add(replace(PLAN, update=Update.LSQ).checksum())
    assert len(sums) == 6
    assert replace(PLAN, path=Path("elsewhere")).checksum() == PLAN.checksum()
