"""A packed layer: its cells and scales, in memory or made when they are asked for."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from flexcim.errors import FlexCiMError
from flexcim.packed.cells import sparser_cells, unpack_parts
from flexcim.packed.plans import NestedPlan
from flexcim.packed.tiling import LayerTiling

__all__ = ["ARRAYS", "LayerSource", "LazyLayers", "PackedError", "PackedLayer"]

ARRAYS: Mapping[str, type[np.generic]] = {"weights": np.int8, "offsets": np.uint8, "weight_scales": np.float32}
"""Names and types of a layer's arrays."""


class PackedError(FlexCiMError):
    """A packed model that cannot be written or read; the message names the file, the layer and the values."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PackedLayer:
    """One layer's cells and scales. Its bias stays in the host model.

    The layer computes ``y[j] = activation_scale * weight_scales[j] * sum_i(weight[j, i] * x[i])`` on integers x.

    Parameters
    ----------
    name : str
        Its name in the model.
    tiling : LayerTiling
        Shape, pattern, groups and the reason for them, and the tiles.
    activation_scale : float or None
        Calibrated scale of the activations, or None where each token gets its own.
    weight_scales : float32 [outputs]
        Scale of each output's weights.
    weights : int8 [tile, row, sub_macro, column]
        Weights of the cells, as `flexcim.packed.tiling.pack_layer` places them.
    offsets : uint8 [tile, row, sub_macro, column]
        Their offsets.

    Raises
    ------
    PackedError
        If an array has the wrong type or shape, an offset is illegal for the pattern, a weight does not fit W bits, or
        a scale is impossible.
    """

    name: str
    tiling: LayerTiling
    activation_scale: float | None
    weight_scales: NDArray[np.float32] = field(repr=False)
    weights: NDArray[np.int8] = field(repr=False)
    offsets: NDArray[np.uint8] = field(repr=False)

    def __post_init__(self) -> None:
        tiling = self.tiling
        for name, dtype in ARRAYS.items():
            array = getattr(self, name)
            shape = (tiling.outputs,) if name == "weight_scales" else tiling.packed_shape
            if array.dtype != dtype or array.shape != shape:
                raise self._error(
                    f"{name} must be {np.dtype(dtype)} {list(shape)}, not {array.dtype} {list(array.shape)}"
                )
        limits = np.array([tile.pattern.max_offset for tile in tiling.tiles])[:, None, None, None]
        too_far = self.offsets > limits
        if too_far.any():
            place = np.unravel_index(int(np.argmax(too_far)), self.offsets.shape)
            pattern = tiling.tiles[int(place[0])].pattern
            raise self._error(
                f"the offset at [tile, row, sub_macro, column] = {list(map(int, place))} is {self.offsets[place]}, "
                f"but pattern {pattern} reaches only {pattern.max_offset}"
            )
        bits = tiling.config.weight_bits
        for extreme in (self.weights.min(), self.weights.max()):
            if not -(1 << (bits - 1)) <= extreme < 1 << (bits - 1):
                raise self._error(f"weights must fit weight_bits = {bits}, not {extreme}")
        # A scale of 0 is that of an output whose weights are all 0.
        wrong = ~(np.isfinite(self.weight_scales) & (self.weight_scales >= 0))
        if wrong.any():
            output = int(np.argmax(wrong))
            scale = self.weight_scales[output]
            raise self._error(f"weight_scales[{output}] must be finite and not negative, not {scale}")
        if self.activation_scale is not None and not 0 < self.activation_scale < math.inf:
            raise self._error(f"activation_scale must be finite and positive, not {self.activation_scale}")
        if tiling.rest is not None:
            try:
                unpack_parts(tiling, self.weights, self.offsets)
            except FlexCiMError as error:
                raise self._error(str(error)) from None

    def under(self, plan: NestedPlan) -> PackedLayer:
        """The layer under a plan; one that is not nested is the same under each."""
        if plan is NestedPlan.DENSER or self.tiling.rest is None:
            return self
        weights, offsets = (sparser_cells(self.tiling, cells) for cells in (self.weights, self.offsets))
        return replace(self, tiling=self.tiling.sparser, weights=weights, offsets=offsets)

    def _error(self, text: str) -> PackedError:
        return PackedError(f"layer {self.name!r}: {text}")


class LayerSource(Protocol):
    """What a layer is made from; its name and its tiling are known without that."""

    @property
    def name(self) -> str:
        """The layer's name in the model."""

    @property
    def tiling(self) -> LayerTiling:
        """The layer's tiling, under its denser plan."""


_Source = TypeVar("_Source", bound=LayerSource)


class LazyLayers(Sequence[PackedLayer], Generic[_Source], ABC):
    """Layers that are made one by one, when they are asked for, and not kept.

    Parameters
    ----------
    sources : sequence of LayerSource
        What each is made from, in order.
    """

    def __init__(self, sources: Sequence[_Source]) -> None:
        self._sources = sources
        self._plan = NestedPlan.DENSER

    @abstractmethod
    def make(self, sources: Sequence[_Source]) -> Iterator[PackedLayer]:
        """Make the layers of these sources, under their denser plan, one after the other."""

    @property
    def tilings(self) -> dict[str, LayerTiling]:
        """Their tilings by name, in order; no layer is made."""
        sparser = self._plan is NestedPlan.SPARSER
        return {source.name: source.tiling.sparser if sparser else source.tiling for source in self._sources}

    def under(self, plan: NestedPlan) -> LazyLayers[_Source]:
        """The same layers under a plan; no layer is made."""
        layers = copy.copy(self)
        layers._plan = plan
        return layers

    def __len__(self) -> int:
        return len(self._sources)

    def __iter__(self) -> Iterator[PackedLayer]:
        return (layer.under(self._plan) for layer in self.make(self._sources))

    @overload
    def __getitem__(self, index: int) -> PackedLayer: ...
    @overload
    def __getitem__(self, index: slice) -> LazyLayers[_Source]: ...
    def __getitem__(self, index: int | slice) -> PackedLayer | LazyLayers[_Source]:
        if isinstance(index, slice):
            layers = copy.copy(self)
            layers._sources = self._sources[index]
            return layers
        return next(self.make([self._sources[index]])).under(self._plan)
