"""Every score with every update: the pattern is kept, and the better treatments are better."""

from __future__ import annotations

import itertools

import pytest
import torch

from flexcim.config.pattern import Pattern
from flexcim_flow.common.options import Update
from flexcim_flow.layer import treatment
from flexcim_flow.layer.masks import nm_mask
from flexcim_flow.layer.rule import SCORES
from flexcim_flow.layer.scores import magnitude_scores, ria_scores, wanda_scores
from flexcim_flow.layer.sweep import obs_sweep
from flexcim_flow.layer.treatment import Treatment
from flexcim_flow.layer.updates import damped, least_squares, row_errors
from flexcim_flow.passes.statistics import InputStatistics

pytestmark = pytest.mark.torch

PATTERNS = tuple(map(Pattern.parse, ("1:1", "4:8", "2:7", "2:4")))
GENERATOR = torch.Generator().manual_seed(0)
WEIGHT = torch.randn(10, 37, generator=GENERATOR)
SEEN = InputStatistics(37, with_moments=True)
SEEN.add(torch.randn(300, 37, generator=GENERATOR) @ torch.randn(37, 37, generator=GENERATOR))


@pytest.mark.parametrize(("score", "update"), list(itertools.product(SCORES.own, Update)))
def test_every_block_keeps_its_pattern(score, update):
    treated = Treatment(score, update).apply(WEIGHT, SEEN, PATTERNS)
    assert torch.equal(treated.weights[0], WEIGHT)
    for pattern, weights in zip(PATTERNS[1:], treated.weights[1:], strict=True):
        for block in weights.split(pattern.m, dim=1):
            assert ((block != 0).sum(dim=1) == min(pattern.n, block.shape[1])).all()
    assert (treated.numerics.damping is None) == (update is Update.NONE and score != "obs")


@pytest.mark.parametrize(("score", "update"), list(itertools.product(SCORES.own, Update)))
def test_layers_of_the_same_inputs_are_pruned_together_as_they_are_alone(score, update):
    weights = [WEIGHT[:4], WEIGHT[4:], WEIGHT[2:5].bfloat16()]
    patterns = [PATTERNS[1:3], PATTERNS[:1], [PATTERNS[3], PATTERNS[0], PATTERNS[1]]]
    treatment = Treatment(score, update)
    together = treatment.apply_together(weights, SEEN, patterns)
    for weight, own, treated in zip(weights, patterns, together, strict=True):
        alone = treatment.apply(weight, SEEN, own)
        assert treated.weights.dtype == weight.dtype
        assert torch.equal(treated.weights != 0, alone.weights != 0)
        assert torch.allclose(treated.weights, alone.weights, rtol=1e-3, atol=1e-5)
        assert treated.numerics.damping == alone.numerics.damping


def test_masks_are_those_of_their_scores():
    for score, scores in (
        ("magnitude", magnitude_scores(WEIGHT)),
        ("wanda", wanda_scores(WEIGHT, SEEN.norms)),
        ("ria", ria_scores(WEIGHT, SEEN.norms)),
    ):
        mask = nm_mask(scores, PATTERNS[1])
        assert torch.equal(Treatment(score, Update.NONE).apply(WEIGHT, SEEN, PATTERNS[1:2]).weights[0], WEIGHT * mask)
        for update in (Update.LSQ, Update.OBS):
            treated = Treatment(score, update).apply(WEIGHT, SEEN, PATTERNS[1:2]).weights[0]
            assert torch.equal(treated != 0, mask)


def test_obs_with_its_own_masks_is_the_published_sweep():
    (expected,), _ = obs_sweep([WEIGHT], damped(SEEN.moments), [PATTERNS[1:2]])
    assert torch.equal(Treatment("obs", Update.OBS).apply(WEIGHT, SEEN, [PATTERNS[1]]).weights, expected)


def test_updates_lower_the_error():
    for score in SCORES.own:
        errors = [
            row_errors(WEIGHT, Treatment(score, update).apply(WEIGHT, SEEN, [PATTERNS[1]]).weights, SEEN.moments).sum()
            for update in (Update.LSQ, Update.OBS, Update.NONE)
        ]
        assert errors == sorted(errors)


def test_half_precision_comes_back_as_it_was():
    treated = Treatment("obs", Update.LSQ).apply(WEIGHT.bfloat16(), SEEN, PATTERNS)
    assert treated.weights.dtype == torch.bfloat16


def test_moments_must_have_been_collected():
    without = InputStatistics(37)
    without.add(torch.ones(2, 37))
    with pytest.raises(ValueError, match="second moments need statistics that collect them, and at least one token"):
        Treatment("wanda", Update.LSQ).apply(WEIGHT, without, PATTERNS)


def test_a_treatment_says_what_it_is():
    assert str(Treatment("obs", Update.LSQ)) == "obs masks, lsq update"
    assert str(Treatment("wanda", Update.NONE)) == "wanda masks, no update"


@pytest.mark.parametrize("score", ["obs", "wanda"])
def test_wide_layers_are_solved_by_iteration_and_it_is_said(score, monkeypatch):
    direct = Treatment(score, Update.LSQ).apply(WEIGHT, SEEN, PATTERNS)
    assert direct.numerics.residual is None
    monkeypatch.setattr(treatment, "DIRECT_KEPT", 15)  # 4:8 and 2:4 keep more, 2:7 fewer
    iterated = Treatment(score, Update.LSQ).apply(WEIGHT, SEEN, PATTERNS)
    assert iterated.numerics.residual is not None
    assert 0 < iterated.numerics.residual <= 1.1e-3
    assert torch.equal(iterated.weights != 0, direct.weights != 0)
    assert torch.equal(iterated.weights[2], direct.weights[2])
    assert not torch.equal(iterated.weights[1], direct.weights[1])
    H = damped(SEEN.moments)
    errors = row_errors(WEIGHT, iterated.weights[1:], H.matrix), row_errors(WEIGHT, direct.weights[1:], H.matrix)
    assert torch.allclose(*errors, rtol=5e-3)
    assert torch.allclose(direct.weights[1], least_squares(WEIGHT, H, direct.weights[1] != 0), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("score", SCORES.own)
def test_what_no_token_reaches_is_pruned_by_magnitude(score):
    unseen = InputStatistics(37, with_moments=True)
    found = Treatment(score, Update.LSQ).apply(WEIGHT, unseen, PATTERNS)
    expected = Treatment("magnitude", Update.NONE).apply(WEIGHT, SEEN, PATTERNS)
    assert torch.equal(found.weights, expected.weights)
    assert not found.numerics.reached
    assert expected.numerics.reached
