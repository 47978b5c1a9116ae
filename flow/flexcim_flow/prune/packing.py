"""A pruned model as the macro loads it, packed layer by layer, so that only one block's weights need be in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from typing import TypeVar

from flexcim.packed.cells import pack_layer
from flexcim.packed.layer import LayerSource, LazyLayers, PackedLayer
from flexcim.packed.model import PackedModel
from flexcim_flow.model.blocks import Block
from flexcim_flow.prune.result import PrunedLayer, PruneResult

__all__ = ["PackedOnDemand", "pack", "pack_one"]

_Layer = TypeVar("_Layer", bound=LayerSource)


class PackedOnDemand(LazyLayers[_Layer]):
    """Layers, each of which is packed when it is asked for.

    Parameters
    ----------
    layers : sequence
        The layers before they are packed, those of a block together.
    pack : callable
        Packs one, whose blocks are in memory.
    blocks : callable
        The blocks that a layer's weights are in.
    """

    def __init__(
        self,
        layers: Sequence[_Layer],
        pack: Callable[[_Layer], PackedLayer],
        blocks: Callable[[_Layer], tuple[Block, ...]],
    ) -> None:
        super().__init__(layers)
        self._pack, self._blocks = pack, blocks

    def make(self, sources: Sequence[_Layer]) -> Iterator[PackedLayer]:
        for blocks, layers in groupby(sources, key=self._blocks):
            with ExitStack() as stack:
                for block in blocks:
                    stack.enter_context(block.loaded())
                yield from map(self._pack, layers)


def pack_one(layer: PrunedLayer) -> PackedLayer:
    """The layer's cells, offsets and scales as they are loaded into the macro."""
    integers, scales = layer.integers()
    weights, offsets = pack_layer(layer.tiling, integers.numpy())
    scale = layer.activation_scale
    return PackedLayer(
        name=layer.name,
        tiling=layer.tiling,
        activation_scale=None if scale is None else scale.item(),
        weight_scales=scales.numpy(),
        weights=weights,
        offsets=offsets,
    )


def pack(result: PruneResult) -> PackedModel:
    """All layers as they are loaded into the macro; each is packed when it is asked for."""
    metadata = {"model": result.checkpoint.name, "sparsity": result.sparsity}
    return PackedModel(result.config, metadata, PackedOnDemand(result.layers, pack_one, lambda layer: (layer.block,)))
