"""The packed model: what the macro loads is what the pruned layers are in integers."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.packed.cells import unpack_layer
from flexcim.packed.folder import read_packed
from flexcim.packed.tiling import LayerTiling
from flexcim_flow.model.blocks import Block
from flexcim_flow.prune.packing import PackedOnDemand, pack_one

pytestmark = pytest.mark.torch


class Shelf:
    """Where the weights of blocks are; it notes which are in memory."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.most = 0

    def load(self, block: Block) -> None:
        block.module.to_empty(device="cpu")
        self.loaded.append(block.name)
        self.most = max(self.most, len(self.loaded))

    def release(self, block: Block) -> None:
        block.module.to("meta")
        self.loaded.remove(block.name)


def test_packed_layers_hold_the_quantised_weights(result):
    for layer in result.layers:
        packed = pack_one(layer)
        weights = unpack_layer(packed.tiling, packed.weights, packed.offsets)
        assert np.array_equal(weights, layer.integers()[0].numpy())
        assert packed.activation_scale is None
        assert np.array_equal(packed.weight_scales, layer.integers()[1].numpy())


def test_the_written_packed_model_is_that_of_the_result(result, written):
    packed = read_packed(written / "packed")
    assert packed.config == result.config
    assert packed.metadata["sparsity"] == result.sparsity
    for read, layer in zip(packed.layers, result.layers, strict=True):
        assert (read.name, read.tiling) == (layer.name, layer.tiling)
        assert np.array_equal(unpack_layer(read.tiling, read.weights, read.offsets), layer.integers()[0].numpy())


def test_layers_are_packed_one_block_at_a_time():
    shelf = Shelf()
    blocks = [Block(name, torch.nn.Linear(2, 2, device="meta"), (), shelf) for name in "ab"]
    packed_while: list[tuple[int, list[str]]] = []

    def pack(layer: SimpleNamespace) -> Any:
        packed_while.append((layer.number, list(shelf.loaded)))
        return SimpleNamespace(number=layer.number, under=lambda plan: layer.number)

    tiling = LayerTiling(MacroConfig(), 2, 2, Pattern(4, 8), 1, "a test")
    layers = [
        SimpleNamespace(name=str(number), tiling=tiling, block=blocks[block], number=number)
        for number, block in ((1, 0), (2, 0), (3, 1))
    ]
    packed: Sequence[Any] = PackedOnDemand(layers, pack, lambda layer: (layer.block,))
    assert packed_while == []
    assert list(packed) == [1, 2, 3]
    assert packed_while == [(1, ["a"]), (2, ["a"]), (3, ["b"])]
    assert shelf.most == 1
    assert (len(packed), packed[2], packed[-1], list(packed[1:])) == (3, 3, 3, [2, 3])
    assert shelf.loaded == []
