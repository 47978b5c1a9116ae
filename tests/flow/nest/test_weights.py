"""Nested weights against brute force over all masks, and against least squares by torch."""

from __future__ import annotations

import itertools

import pytest
import torch

from flexcim.config.pattern import Pattern
from flexcim_flow.layer.masks import nm_mask
from flexcim_flow.layer.sweep import obs_sweep
from flexcim_flow.layer.updates import damped, least_squares, row_errors
from flexcim_flow.nest.weights import Nested, free_mask, nest, nest_by_magnitude, quantize_nested
from tests.support.correlated_inputs import data, moments

pytestmark = pytest.mark.torch

PAIRS = [tuple(map(Pattern.parse, pair.split())) for pair in ("2:8 2:8", "2:8 4:8", "1:4 2:8", "4:11 2:5", "2:4 1:1")]
for_each_pair = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "+".join(map(str, pair)))


def trained(pattern, inputs=29, outputs=6, seed=0):
    """Weights, inputs under either plan, and a base as pruning makes it."""
    weight, seen = data(outputs, inputs, 90, seed)
    _, others = data(outputs, inputs, 90, seed + 1)
    curvature = damped(moments(seen))
    _, ((mask,),) = obs_sweep([weight], curvature, [[pattern]])
    return weight, seen, others, least_squares(weight, curvature, mask)


def assert_has_the_patterns(nested, base, pair):
    assert not ((nested.base != 0) & (nested.rest != 0)).any()
    for part, pattern in zip((nested.base, nested.rest), pair, strict=True):
        for start in range(0, part.shape[1], pattern.m):
            assert ((part[:, start : start + pattern.m] != 0).sum(dim=1) <= pattern.n).all()
    assert torch.equal(nested.base != 0, base != 0)


@for_each_pair
def test_a_free_mask_keeps_the_best_of_what_is_not_taken(pair):
    weight, *_, base = trained(pair[0])
    scores, taken = weight.abs(), base != 0
    mask = free_mask(scores, taken, pair[1])
    for row, start in itertools.product(range(len(weight)), range(0, weight.shape[1], pair[1].m)):
        block = range(start, min(start + pair[1].m, weight.shape[1]))
        free = [place for place in block if not taken[row, place]]
        count = len(free) if pair[1].is_dense else pair[1].n
        best = sorted(free, key=lambda place: -float(scores[row, place]))[:count]
        assert [place for place in block if mask[row, place]] == sorted(best)


@for_each_pair
def test_the_rest_is_the_least_squares_of_what_the_base_leaves(pair):
    weight, seen, _, base = trained(pair[0])
    curvature = damped(moments(seen))
    seen = torch.linalg.cholesky(curvature.matrix).T  # inputs that have the damped second moments
    nested = nest(weight, base, pair[1], curvature)
    assert torch.equal(nested.base, base)
    assert_has_the_patterns(nested, base, pair)
    left = seen @ (weight - base).T
    for output in range(len(weight)):
        kept = nested.rest[output] != 0
        best = torch.linalg.lstsq(seen[:, kept], left[:, output, None]).solution[:, 0]
        error = (seen[:, kept] @ best - left[:, output]).square().sum()
        found = (seen @ nested.rest[output] - left[:, output]).square().sum()
        assert found <= error * 1.001 + 1e-5 * left[:, output].square().sum()


@for_each_pair
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_both_plans_together_are_one_least_squares(pair, share):
    """That of both plans' inputs under each other, weighted; the sparser plan's have zeros for the rest."""
    weight, seen, others, base = trained(pair[0])
    curvatures = damped(moments(seen)), damped(moments(others))
    seen, others = (torch.linalg.cholesky(curvature.matrix).T for curvature in curvatures)
    nested = nest(weight, base, pair[1], *curvatures, share=share)
    assert_has_the_patterns(nested, base, pair)
    for output in range(len(weight)):
        of_base = base[output] != 0
        kept = of_base | (nested.rest[output] != 0)
        stacked = torch.cat([share**0.5 * seen[:, kept], (1 - share) ** 0.5 * others[:, kept] * of_base[kept]])
        targets = torch.cat([share**0.5 * seen @ weight[output], (1 - share) ** 0.5 * others @ weight[output]])
        best = torch.linalg.lstsq(stacked, targets[:, None]).solution[:, 0]
        error = (stacked @ best - targets).square().sum()
        found = (stacked @ nested.denser[output, kept] - targets).square().sum()
        assert found <= error * 1.001 + 1e-4 * targets.square().sum()


def test_the_choice_is_between_the_best_and_the_mean_of_all_rests():
    """One block of eight, where all 15 rests of two among the six free places can be tried."""
    weight, seen, _, base = trained(Pattern(2, 8), inputs=8, outputs=40)
    curvature = damped(moments(seen))
    nested = nest(weight, base, Pattern(2, 8), curvature)
    best = torch.full((40,), torch.inf, dtype=torch.float64)
    mean = torch.zeros(40, dtype=torch.float64)
    for row in range(40):
        free = [place for place in range(8) if not base[row, place]]
        for places in itertools.combinations(free, 2):
            mask = torch.zeros(1, 8, dtype=torch.bool)
            mask[0, list(places)] = True
            rest = least_squares((weight - base)[row : row + 1], curvature, mask)
            error = row_errors(weight[row : row + 1], base[row : row + 1] + rest, curvature.matrix)[0]
            best[row] = min(best[row], error)
            mean[row] += error / 15
    found = row_errors(weight, nested.denser, curvature.matrix)
    assert (found >= best * (1 - 1e-6)).all()
    assert found.sum() < mean.sum()


def test_a_larger_share_is_better_for_the_denser_plan_and_worse_for_the_sparser_one():
    weight, seen, _, base = trained(Pattern(2, 8), inputs=40)
    curvature = damped(moments(seen))
    errors = []
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        nested = nest(weight, base, Pattern(2, 8), curvature, curvature, share=share)
        errors.append([row_errors(weight, one, curvature.matrix).sum() for one in (nested.denser, nested.base)])
    denser, sparser = (list(one) for one in zip(*errors, strict=True))
    assert denser == sorted(denser, reverse=True)
    assert sparser == sorted(sparser)


def test_what_fits_the_rests_pattern_stays_as_it_is():
    weight, seen, _, _ = trained(Pattern(2, 8))
    pruned = weight * nm_mask(weight.abs(), Pattern(4, 8))
    base = pruned * nm_mask(pruned.abs(), Pattern(2, 8))
    nested = nest(pruned, base, Pattern(2, 8), damped(moments(seen)))
    assert torch.equal(nested.denser, pruned)
    assert torch.equal(nested.base, base)
    assert nested.residual is None


def test_a_share_that_is_none_and_moments_that_are_missing_are_refused():
    weight, seen, _, base = trained(Pattern(2, 8))
    curvature = damped(moments(seen))
    for share in (-0.1, 1.5):
        with pytest.raises(ValueError, match=f"the denser plan's share must be between 0 and 1, not {share}"):
            nest(weight, base, Pattern(2, 8), curvature, curvature, share=share)
    with pytest.raises(ValueError, match=r"a share of 0\.5 needs the second moments of the sparser plan"):
        nest(weight, base, Pattern(2, 8), curvature, share=0.5)


def test_a_layer_without_tokens_takes_the_largest_weights():
    weight, *_, base = trained(Pattern(2, 8))
    nested = nest_by_magnitude(weight, base, Pattern(2, 8))
    assert torch.equal(nested.rest != 0, free_mask(weight.abs(), base != 0, Pattern(2, 8)))
    assert torch.equal(nested.denser[nested.rest != 0], weight[nested.rest != 0])


def test_both_parts_have_the_denser_plans_scale():
    weight, *_, base = trained(Pattern(2, 8))
    nested = nest_by_magnitude(weight, base, Pattern(2, 8))
    base_integers, rest_integers, scales = quantize_nested(nested, 6)
    assert torch.equal(scales, nested.denser.abs().amax(dim=1).float() / 31)
    assert base_integers.dtype == rest_integers.dtype == torch.int8
    together = (base_integers + rest_integers).float() * scales[:, None]
    assert ((together - nested.denser).abs() <= scales[:, None] / 2 * 1.001).all()
    assert not base_integers[nested.base == 0].any()
    assert not rest_integers[nested.rest == 0].any()
    zero = Nested(torch.zeros(2, 8), torch.zeros(2, 8))
    assert quantize_nested(zero)[2].tolist() == [1, 1]
