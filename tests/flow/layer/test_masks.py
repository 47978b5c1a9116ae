"""N:M masks against a slow reference, and the structure of every block."""

from __future__ import annotations

import pytest
import torch

from flexcim.config.macro import PRESETS
from flexcim.config.pattern import Pattern
from flexcim_flow.layer.masks import kept_weights, nm_mask

pytestmark = pytest.mark.torch

PATTERNS = sorted({pattern for config in PRESETS.values() for pattern in config.patterns} | {Pattern(3, 7)})


def reference_mask(scores: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """The rule as the contract states it, block by block."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    if pattern.is_dense:
        return ~mask
    for output in range(scores.shape[0]):
        for start in range(0, scores.shape[1], pattern.m):
            block = scores[output, start : start + pattern.m].tolist()
            best = sorted(range(len(block)), key=lambda place: (-block[place], place))
            for place in best[: pattern.n]:
                mask[output, start + place] = True
    return mask


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("inputs", [1, 3, 8, 21, 44, 77])
def test_masks_equal_the_slow_reference(pattern, inputs):
    generator = torch.Generator().manual_seed(inputs)
    # Whole numbers below 6 make ties in nearly every block.
    scores = torch.randint(6, (13, inputs), generator=generator).float()
    assert torch.equal(nm_mask(scores, pattern), reference_mask(scores, pattern))


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_every_block_keeps_exactly_n_and_the_last_one_no_less_than_it_can(pattern):
    inputs = 5 * pattern.m + pattern.m // 2
    scores = torch.rand(9, inputs, generator=torch.Generator().manual_seed(1))
    blocks = nm_mask(scores, pattern).split(pattern.m, dim=1)
    for block in blocks:
        kept = min(pattern.n, block.shape[1])
        assert (block.sum(dim=1) == kept).all()
    assert kept_weights(9, inputs, pattern) == sum(int(block.sum()) for block in blocks)


def test_of_equal_scores_the_lowest_input_is_kept():
    mask = nm_mask(torch.ones(2, 11), Pattern(2, 4))
    assert mask.int().tolist() == [[1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0]] * 2


def test_infinite_scores_are_kept_first():
    scores = torch.tensor([[1.0, torch.inf, 2.0, 0.0]])
    assert nm_mask(scores, Pattern(1, 4)).int().tolist() == [[0, 1, 0, 0]]


def test_scores_without_a_rank_are_refused():
    with pytest.raises(ValueError, match="scores must not hold NaN"):
        nm_mask(torch.tensor([[0.0, torch.nan]]), Pattern(1, 2))
    with pytest.raises(ValueError, match=r"scores must be \[outputs, inputs\], not of shape \[4\]"):
        nm_mask(torch.zeros(4), Pattern(1, 2))
