"""Updates of the kept weights against least squares by torch."""

from __future__ import annotations

import pytest
import torch

from flexcim.config.pattern import Pattern
from flexcim_flow.layer import updates
from flexcim_flow.layer.masks import nm_mask
from flexcim_flow.layer.sweep import obs_sweep
from flexcim_flow.layer.updates import UpdateError, conjugate_gradients, damped, least_squares, row_errors
from tests.support.correlated_inputs import data, moments

pytestmark = pytest.mark.torch

PATTERNS = [Pattern.parse(text) for text in ("1:1", "1:2", "2:4", "4:7", "4:8", "2:8", "4:11", "1:8")]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("inputs", [16, 29])
def test_least_squares_equals_that_of_torch_for_each_output(pattern, inputs, monkeypatch):
    monkeypatch.setattr(updates, "_CHUNK", 2 * inputs**2)  # several chunks, a shorter last one
    weight, seen = data(7, inputs, 80)
    mask = nm_mask(weight.abs(), pattern)
    updated = least_squares(weight, damped(moments(seen), 1e-12), mask)
    assert not updated[~mask].any()
    for output in range(7):
        kept = mask[output]
        best = torch.linalg.lstsq(seen[:, kept], (seen @ weight[output])[:, None]).solution[:, 0]
        assert torch.allclose(updated[output, kept], best, rtol=1e-6, atol=1e-8)


def test_outputs_that_keep_different_numbers_are_refused():
    weight, seen = data(2, 4, 20)
    mask = torch.tensor([[True, True, False, False], [True, False, False, False]])
    with pytest.raises(ValueError, match="each output must keep the same number of weights, not 1 to 2"):
        least_squares(weight, damped(moments(seen)), mask)


def test_least_squares_is_never_worse_than_the_sweep_and_that_than_nothing():
    weight, seen = data(12, 40, 200)
    H = damped(moments(seen))
    for pattern in PATTERNS:
        ((swept,),), ((mask,),) = obs_sweep([weight], H, [[pattern]])
        best = least_squares(weight, H, mask)
        errors = [row_errors(weight, one, H.matrix).sum() for one in (best, swept, weight * mask)]
        assert errors == sorted(errors)


def test_row_errors_are_mean_squares_of_the_outputs():
    weight, seen = data(3, 9, 50)
    other = torch.stack([weight * 0.5, weight])
    errors = row_errors(weight, other, moments(seen))
    assert torch.allclose(errors[0], (seen @ weight.T * 0.5).square().mean(dim=0))
    assert not errors[1].any()


def test_few_tokens_and_dead_inputs_are_damped_and_said_so():
    weight, seen = data(3, 20, 5)
    seen[:, 3] = 0
    curvature = damped(moments(seen))
    assert curvature.damping == 0.01
    updated = least_squares(weight, curvature, nm_mask(weight.abs(), Pattern(2, 4)))
    assert updated.isfinite().all()
    # Nothing can be made up for by an input that is always zero, and nothing need be.
    mask = torch.zeros_like(weight, dtype=torch.bool)
    mask[:, 3:13] = True
    assert torch.allclose(least_squares(weight, curvature, mask)[:, 3], weight[:, 3])
    # Inputs that are all zero leave everything as it is.
    assert torch.equal(least_squares(weight, damped(torch.zeros(20, 20).double()), mask), weight * mask)


def test_more_damping_is_used_where_it_is_needed():
    matrix = torch.tensor([[1.0, 1.2], [1.2, 1.0]])
    curvature = damped(matrix)
    assert curvature.damping == pytest.approx(1.0)
    assert torch.allclose(curvature.matrix, matrix + curvature.damping * torch.eye(2))
    with pytest.raises(UpdateError, match="second moments are not positive semidefinite, whatever their damping"):
        damped(torch.tensor([[1.0, 500.0], [500.0, 1.0]]))


def test_what_is_no_second_moment_is_refused():
    with pytest.raises(ValueError, match=r"second moments must be \[inputs, inputs\], not of shape \[2, 3\]"):
        damped(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="second moments must be finite"):
        damped(torch.tensor([[torch.nan]]))
    with pytest.raises(ValueError, match="damping must be positive, not 0"):
        damped(torch.eye(2), 0)


# -- iteration ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("pattern", [Pattern(4, 8), Pattern(1, 8)], ids=str)
def test_conjugate_gradients_find_what_the_direct_solution_is(pattern, dtype, monkeypatch):
    monkeypatch.setattr(updates, "_CHUNK", 3 * 96)  # several chunks, a shorter last one
    weight, seen = data(7, 96, 300)
    seen[:, :3] *= 30  # outlier channels
    curvature = damped(moments(seen).to(dtype))
    ((swept,),), ((mask,),) = obs_sweep([weight.to(dtype)], curvature, [[pattern]])
    exact = least_squares(weight, curvature, mask)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    found, residual = conjugate_gradients(weight, curvature, mask, swept, tolerance=tolerance, steps=500)
    assert residual < 2 * tolerance
    assert not found[~mask].any()
    assert torch.allclose(found, exact, rtol=1e3 * tolerance, atol=1e3 * tolerance)
    # With the tolerance that is used, the error is the least but for 1 in 1000.
    found, residual = conjugate_gradients(weight, curvature, mask, swept)
    assert residual <= 1.1e-3
    errors = [row_errors(weight, one, curvature.matrix).sum() for one in (exact, found, swept)]
    assert errors[1] < 1.002 * errors[0] < errors[2]


def test_too_few_steps_are_told_and_still_no_worse_than_the_start():
    weight, seen = data(6, 64, 200)
    curvature = damped(moments(seen))
    ((swept,),), ((mask,),) = obs_sweep([weight], curvature, [[Pattern(4, 8)]])
    before = row_errors(weight, swept, curvature.matrix)
    for steps in range(4):
        found, residual = conjugate_gradients(weight, curvature, mask, swept, steps=steps)
        assert residual > 1e-3
        after = row_errors(weight, found, curvature.matrix)
        assert (after <= before * (1 + 1e-12)).all()
        before = after


def test_steps_that_end_in_no_number_leave_the_start():
    weight, seen = data(3, 16, 60)
    mask = nm_mask(weight.abs(), Pattern(2, 4))
    broken = updates.Curvature(-damped(moments(seen)).matrix, 0.01)  # no second moments: no step lowers anything
    broken.matrix[0, 0] = 0
    found, _ = conjugate_gradients(weight, broken, mask, weight)
    assert torch.equal(found, weight * mask)


def test_an_output_that_is_zero_is_solved_at_once():
    weight, seen = data(2, 16, 60)
    weight[1] = 0
    mask = nm_mask(weight.abs(), Pattern(2, 4))
    found, residual = conjugate_gradients(weight, damped(moments(seen)), mask, weight, tolerance=1e-12)
    assert not found[1].any()
    assert residual < 1e-11
