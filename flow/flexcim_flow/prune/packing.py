"""Packed layers that are made one after the other, so that only one block's weights need be in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from typing import TypeVar

from flexcim.packed.layer import LayerSource, LazyLayers, PackedLayer
from flexcim_flow.model.blocks import Block

__all__ = ["PackedOnDemand"]

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
