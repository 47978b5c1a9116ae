"""Wanda's scores."""

from __future__ import annotations

import pytest
import torch

from flow.scores import wanda_scores


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
    with pytest.raises(ValueError, match=r"scores need a weight \[outputs, inputs\] and one norm for each input, not"):
        wanda_scores(*(torch.zeros(shape) for shape in shapes))
