"""Model walking on real classes and on models that cannot be walked."""

from __future__ import annotations

import pytest
from torch import nn

from flexcim_flow.model.blocks import ModelError, find_blocks
from tests.support.tiny_models import tiny_llama, tiny_mamba2

pytestmark = pytest.mark.torch


def test_a_llama_has_seven_linear_layers_in_each_block():
    model = tiny_llama()
    blocks = find_blocks(model)
    assert [block.name for block in blocks] == ["model.layers.0", "model.layers.1", "model.layers.2"]
    assert [(layer.name.removeprefix("model.layers.1."), layer.shape) for layer in blocks[1].layers] == [
        ("self_attn.q_proj", (24, 24)),
        ("self_attn.k_proj", (12, 24)),
        ("self_attn.v_proj", (12, 24)),
        ("self_attn.o_proj", (24, 24)),
        ("mlp.gate_proj", (44, 24)),
        ("mlp.up_proj", (44, 24)),
        ("mlp.down_proj", (24, 44)),
    ]
    assert all(model.get_submodule(layer.name) is layer.module for block in blocks for layer in block.layers)
    assert blocks[0].layers[0].bias is not None
    assert blocks[0].layers[6].bias is None


def test_a_mamba2_has_two_linear_layers_in_each_block():
    blocks = find_blocks(tiny_mamba2())
    assert [layer.name for layer in blocks[2].layers] == [
        "backbone.layers.2.mixer.in_proj",
        "backbone.layers.2.mixer.out_proj",
    ]


def test_writing_to_a_layers_weights_changes_the_model():
    model = tiny_llama()
    find_blocks(model)[0].layers[0].weight.zero_()
    assert not model.model.layers[0].self_attn.q_proj.weight.any()


class Mixture(nn.Module):
    """A block with more experts than the stack has blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(8))
        self.router = nn.Linear(4, 8)


def test_a_list_inside_a_block_is_not_taken_for_the_stack():
    blocks = find_blocks(nn.Sequential(nn.ModuleList([Mixture(), Mixture()])))
    assert [len(block.layers) for block in blocks] == [9, 9]
    assert blocks[1].layers[3].name == "0.1.experts.3"


def test_models_without_blocks_are_refused():
    with pytest.raises(ModelError, match=r"^Linear has no list of blocks to prune one after the other$"):
        find_blocks(nn.Linear(2, 2))


def test_blocks_of_several_classes_are_refused():
    model = nn.Sequential(nn.ModuleList([nn.Linear(2, 2), nn.Bilinear(2, 2, 2)]))
    with pytest.raises(ModelError, match=r"^the blocks in 0 of Sequential must be of one class, not Bilinear, Linear$"):
        find_blocks(model)


def test_blocks_without_linear_layers_are_refused():
    model = nn.Sequential(nn.ModuleList([nn.LayerNorm(4), nn.LayerNorm(4)]))
    with pytest.raises(ModelError, match=r"^the blocks in 0 of Sequential have no linear layers to prune$"):
        find_blocks(model)


def test_shared_weights_are_refused():
    first, second = nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4))
    second[0].weight = first[0].weight
    with pytest.raises(ModelError, match=r"^0\.1\.0 shares its weights with 0\.0\.0, so they cannot be pruned apart$"):
        find_blocks(nn.Sequential(nn.ModuleList([first, second])))
