"""The scores, by hand."""

from __future__ import annotations

import pytest
import torch

from flexcim_flow.layer.scores import magnitude_scores, obs_scores, ria_scores, wanda_scores

pytestmark = pytest.mark.torch


def test_scores_are_magnitude_times_norm_of_the_input():
    weight = torch.tensor([[1.0, -2.0, 0.0], [-0.5, 4.0, 3.0]])
    norms = torch.tensor([2.0, 0.5, 10.0])
    assert wanda_scores(weight, norms).tolist() == [[2.0, 1.0, 0.0], [1.0, 2.0, 30.0]]


def test_scores_are_float32_even_where_half_precision_would_overflow():
    scores = wanda_scores(torch.full((1, 1), 60_000.0, dtype=torch.float16), torch.tensor([100.0]))
    assert scores.dtype == torch.float32
    assert scores.item() == pytest.approx(6e6, rel=1e-3)


@pytest.mark.parametrize("shapes", [((2, 3), (2,)), ((2, 3), (1, 3)), ((3,), (3,))])
def test_shapes_that_do_not_belong_together_are_refused(shapes):
    with pytest.raises(
        ValueError, match=r"scores need a weight \[outputs, inputs\] and one number for each input, not"
    ):
        wanda_scores(*(torch.zeros(shape) for shape in shapes))


def test_magnitudes_are_magnitudes():
    assert magnitude_scores(torch.tensor([[-2.0, 1.0]])).tolist() == [[2.0, 1.0]]


def test_relative_importance_counts_a_weights_share_of_its_input_and_output():
    weight = torch.tensor([[1.0, -3.0], [1.0, 0.0]])
    scores = ria_scores(weight, torch.tensor([4.0, 9.0]))
    # (1/2 + 1/4) * 2, (3/3 + 3/4) * 3, (1/2 + 1/1) * 2, 0
    assert scores.tolist() == [[1.5, 5.25], [3.0, 0.0]]
    assert ria_scores(torch.zeros(2, 2), torch.ones(2)).tolist() == [[0.0, 0.0]] * 2


def test_obs_scores_are_what_the_best_repair_of_one_loss_leaves():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    weight = torch.randn(1, 4, generator=generator, dtype=torch.float64)
    H = inputs.T @ inputs
    scores = obs_scores(weight, torch.linalg.inv(H).diagonal())
    for lost in range(4):
        others = [index for index in range(4) if index != lost]
        target = inputs @ weight[0]
        best = torch.linalg.lstsq(inputs[:, others], target[:, None]).solution
        assert scores[0, lost].item() == pytest.approx(
            (inputs[:, others] @ best - target[:, None]).square().sum().item()
        )
