"""Layers that get the same inputs are told by what was seen of them."""

from __future__ import annotations

import pytest
import torch

from flexcim_flow.model.blocks import find_blocks
from flexcim_flow.passes.statistics import InputStatistics, observe, with_same_inputs
from tests.support.tiny_models import tiny_llama

pytestmark = pytest.mark.torch

TOKENS = torch.randint(256, (2, 16), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("moments", [False, True])
def test_projections_of_one_attention_or_gate_belong_together(moments):
    model = tiny_llama()
    layers = [layer for block in find_blocks(model) for layer in block.layers]
    with torch.no_grad(), observe(layers, moments=moments) as seen:
        model(input_ids=TOKENS)
    groups = [[name.rpartition(".")[2] for name in group] for group in with_same_inputs(seen, seen)]
    of_block = [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
    assert groups == of_block * len(find_blocks(model))


def test_what_was_seen_is_equal_only_to_the_bit():
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    first, same, fewer, without = (InputStatistics(4, with_moments=moments) for moments in (True, True, True, False))
    for statistics in (first, same, without):
        statistics.add(inputs)
    assert first.equals(same)
    assert not first.equals(without)
    fewer.add(inputs[:4])
    assert not first.equals(fewer)
    # The same squares from other products.
    turned = InputStatistics(4, with_moments=True)
    turned.add(inputs * torch.tensor([1.0, -1.0, 1.0, 1.0]))
    assert torch.equal(first.squares, turned.squares)
    assert not first.equals(turned)
