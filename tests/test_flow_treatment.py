"""Every score with every update: the pattern is kept, and the better treatments are better."""

from __future__ import annotations

import itertools

import pytest
import torch

from flexcim.pattern import Pattern
from flow.masks import nm_mask
from flow.options import Method, Score, Update
from flow.scores import magnitude_scores, ria_scores, wanda_scores
from flow.statistics import InputStatistics
from flow.treatment import Treatment, default_treatment
from flow.updates import damped, obs_sweep, row_errors

PATTERNS = tuple(map(Pattern.parse, ("1:1", "4:8", "2:7", "2:4")))
GENERATOR = torch.Generator().manual_seed(0)
WEIGHT = torch.randn(10, 37, generator=GENERATOR)
SEEN = InputStatistics(37, with_moments=True)
SEEN.add(torch.randn(300, 37, generator=GENERATOR) @ torch.randn(37, 37, generator=GENERATOR))


@pytest.mark.parametrize(("score", "update"), list(itertools.product(Score, Update)))
def test_every_block_keeps_its_pattern(score, update):
    treated = Treatment(score, update).apply(WEIGHT, SEEN, PATTERNS)
    assert torch.equal(treated.weights[0], WEIGHT)
    for pattern, weights in zip(PATTERNS[1:], treated.weights[1:], strict=True):
        for block in weights.split(pattern.m, dim=1):
            assert ((block != 0).sum(dim=1) == min(pattern.n, block.shape[1])).all()
    assert (treated.damping is None) == (update is Update.NONE and score is not Score.OBS)


def test_masks_are_those_of_their_scores():
    for score, scores in (
        (Score.MAGNITUDE, magnitude_scores(WEIGHT)),
        (Score.WANDA, wanda_scores(WEIGHT, SEEN.norms)),
        (Score.RIA, ria_scores(WEIGHT, SEEN.norms)),
    ):
        mask = nm_mask(scores, PATTERNS[1])
        assert torch.equal(Treatment(score, Update.NONE).apply(WEIGHT, SEEN, PATTERNS[1:2]).weights[0], WEIGHT * mask)
        for update in (Update.LSQ, Update.OBS):
            treated = Treatment(score, update).apply(WEIGHT, SEEN, PATTERNS[1:2]).weights[0]
            assert torch.equal(treated != 0, mask)


def test_obs_with_its_own_masks_is_the_published_sweep():
    expected, _ = obs_sweep(WEIGHT, damped(SEEN.moments), [PATTERNS[1]])
    assert torch.equal(Treatment(Score.OBS, Update.OBS).apply(WEIGHT, SEEN, [PATTERNS[1]]).weights, expected)


def test_updates_lower_the_error():
    for score in Score:
        errors = [
            row_errors(WEIGHT, Treatment(score, update).apply(WEIGHT, SEEN, [PATTERNS[1]]).weights, SEEN.moments).sum()
            for update in (Update.LSQ, Update.OBS, Update.NONE)
        ]
        assert errors == sorted(errors)


def test_half_precision_comes_back_as_it_was():
    treated = Treatment(Score.OBS, Update.LSQ).apply(WEIGHT.bfloat16(), SEEN, PATTERNS)
    assert treated.weights.dtype == torch.bfloat16


def test_moments_must_have_been_collected():
    with pytest.raises(ValueError, match="second moments need statistics that collect them, and at least one token"):
        Treatment(Score.OBS, Update.LSQ).apply(WEIGHT, InputStatistics(37), PATTERNS)


def test_the_default_is_as_published_but_for_flow():
    assert default_treatment(Method.PAPER) == Treatment(Score.WANDA, Update.NONE)
    assert default_treatment(Method.FLOW) == Treatment(Score.OBS, Update.LSQ)
    assert default_treatment(Method.UNIFORM, update=Update.LSQ) == Treatment(Score.WANDA, Update.LSQ)
    assert str(default_treatment(Method.FLOW)) == "obs masks, lsq update"
    assert str(default_treatment(Method.OWL)) == "wanda masks, no update"
