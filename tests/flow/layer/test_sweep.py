"""The sweep of several matrices and patterns against the published one, written column by column, and brute force."""

from __future__ import annotations

import itertools

import pytest
import torch

from flexcim.config.pattern import Pattern
from flexcim_flow.layer import sweep
from flexcim_flow.layer.masks import nm_mask
from flexcim_flow.layer.sweep import obs_sweep
from flexcim_flow.layer.updates import damped, least_squares, row_errors
from tests.support.correlated_inputs import data, moments

pytestmark = pytest.mark.torch

PATTERNS = [Pattern.parse(text) for text in ("1:1", "1:2", "2:4", "4:7", "4:8", "2:8", "4:11", "1:8")]


def reference_sweep(weight: torch.Tensor, H: torch.Tensor, pattern: Pattern) -> tuple[torch.Tensor, torch.Tensor]:
    """The published sweep, one output and one column at a time."""
    U = torch.linalg.cholesky(torch.linalg.inv(H), upper=True)
    swept, kept = weight.clone(), torch.ones_like(weight, dtype=torch.bool)
    for row, mask in zip(swept, kept, strict=True):
        for column in range(len(row)):
            if column % pattern.m == 0 and not pattern.is_dense:
                group = list(range(column, min(column + pattern.m, len(row))))
                by_loss = sorted(group, key=lambda index: -float(row[index] ** 2 / U[index, index] ** 2))
                mask[by_loss[pattern.n :]] = False
            error = 0.0 if mask[column] else float(row[column] / U[column, column])
            row[column:] -= error * U[column, column:]
    return swept * kept, kept


@pytest.mark.parametrize("inputs", [16, 44])
def test_the_sweep_of_all_patterns_equals_one_at_a_time(inputs, monkeypatch):
    monkeypatch.setattr(sweep, "_PANEL", 6)  # groups lie across panels
    weight, seen = data(5, inputs, 100)
    curvature = damped(moments(seen))
    (swept,), (kept,) = obs_sweep([weight], curvature, [PATTERNS])
    for index, pattern in enumerate(PATTERNS):
        expected, mask = reference_sweep(weight, curvature.matrix, pattern)
        assert torch.equal(kept[index], mask)
        assert torch.allclose(swept[index], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("masked", [False, True])
def test_matrices_of_the_same_inputs_are_swept_together(masked):
    weight, seen = data(12, 29, 100)
    weights = [weight[:3], weight[3:4], weight[4:]]
    patterns = [PATTERNS[1:5], PATTERNS[4:5], [PATTERNS[4], PATTERNS[0], PATTERNS[1]]]
    taken = [nm_mask(matrix.abs(), Pattern(2, 8)) for matrix in weights]
    masks = None
    if masked:
        masks = [torch.stack([nm_mask(w.abs(), p) for p in own]) for w, own in zip(weights, patterns, strict=True)]
    curvature = damped(moments(seen))
    swept, kept = obs_sweep(weights, curvature, patterns, masks, taken=taken)
    for index, (matrix, own) in enumerate(zip(weights, patterns, strict=True)):
        for place, pattern in enumerate(own):
            of_one = None if masks is None else [masks[index][place : place + 1]]
            ((alone,),), ((mask,),) = obs_sweep([matrix], curvature, [[pattern]], of_one, taken=[taken[index]])
            assert torch.equal(kept[index][place], mask)
            assert torch.allclose(swept[index][place], alone, rtol=1e-10, atol=1e-12)


def test_a_sweep_keeps_to_masks_that_are_given():
    weight, seen = data(5, 16, 60)
    masks = [nm_mask(weight.abs(), pattern) for pattern in PATTERNS]
    curvature = damped(moments(seen))
    (swept,), (kept,) = obs_sweep([weight], curvature, [PATTERNS], [torch.stack(masks)])
    for one, mask, pattern in zip(swept, masks, PATTERNS, strict=True):
        assert not one[~mask].any()
        if pattern.is_dense:
            assert torch.equal(one, weight)
    assert torch.equal(kept, torch.stack(masks))


def test_no_sweep_beats_the_best_of_all_masks():
    weight, seen = data(60, 8, 60)
    H = damped(moments(seen))
    ((swept,),), ((kept,),) = obs_sweep([weight], H, [[Pattern(4, 8)]])
    best = torch.full((60,), torch.inf, dtype=torch.float64)
    for chosen in itertools.combinations(range(8), 4):
        mask = torch.zeros_like(weight, dtype=torch.bool)
        mask[:, list(chosen)] = True
        best = torch.minimum(best, row_errors(weight, least_squares(weight, H, mask), H.matrix))
    solved = row_errors(weight, least_squares(weight, H, kept), H.matrix)
    assert (solved >= best * (1 - 1e-9)).all()
    assert (row_errors(weight, swept, H.matrix) >= solved * (1 - 1e-9)).all()


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_a_sweep_keeps_nothing_that_is_taken(pattern):
    """As if those columns of a row did not belong to its groups."""
    weight, seen = data(6, 29, 80)
    taken = nm_mask(weight.abs(), Pattern(2, 8))
    ((swept,),), ((kept,),) = obs_sweep([weight], damped(moments(seen)), [[pattern]], taken=[taken])
    assert not (kept & taken).any()
    assert not swept[~kept].any()
    for start in range(0, 29, pattern.m):
        free = (~taken[:, start : start + pattern.m]).sum(dim=1)
        counts = kept[:, start : start + pattern.m].sum(dim=1)
        assert torch.equal(counts, free.clamp(max=pattern.n))
