"""A packed model: its layers' cells and scales, and what it is under each plan."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexcim.config.macro import MacroConfig
from flexcim.errors import FlexCiMError
from flexcim.packed.cells import sparser_cells, unpack_parts
from flexcim.packed.plans import NestedPlan
from flexcim.packed.tiling import LayerTiling

__all__ = ["ARRAYS", "LazyLayers", "PackedError", "PackedLayer", "PackedModel"]

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


class LazyLayers(Sequence[PackedLayer], ABC):
    """Layers that are read when they are asked for, and whose tilings are known without that."""

    @property
    @abstractmethod
    def tilings(self) -> dict[str, LayerTiling]:
        """Their tilings by name, in order; nothing is read."""

    @abstractmethod
    def under(self, plan: NestedPlan) -> LazyLayers:
        """The same layers under a plan; nothing is read."""


@dataclass(frozen=True, eq=False)
class PackedModel:
    """The layers that run on one macro.

    A nested model is read and written whole, which is its denser plan.

    Parameters
    ----------
    config : MacroConfig
        The macro.
    metadata : mapping
        What JSON can hold: the model's name, the sparsity target and so on.
    layers : sequence of PackedLayer
        In the model's order. Of a model that `flexcim.packed.folder.read_packed` opened, each access reads and
        verifies the layer's file, and nothing is kept.
    """

    config: MacroConfig
    metadata: Mapping[str, Any]
    layers: Sequence[PackedLayer]

    @property
    def tilings(self) -> dict[str, LayerTiling]:
        """Tilings of the layers by name, in order; of `LazyLayers`, no array is read for it."""
        if isinstance(self.layers, LazyLayers):
            return self.layers.tilings
        return {layer.name: layer.tiling for layer in self.layers}

    @property
    def nested(self) -> bool:
        """Whether it has two plans."""
        return any(tiling.rest is not None for tiling in self.tilings.values())

    def under(self, plan: NestedPlan) -> PackedModel:
        """The model under a plan, as one that has no other; the arrays are those that are stored.

        Raises
        ------
        PackedError
            If the model has not this plan.
        """
        if plan is NestedPlan.DENSER:
            return self
        if not self.nested:
            raise PackedError(f"the packed model has only one plan, so it cannot be run under a {plan.value} one")
        if isinstance(self.layers, LazyLayers):
            return replace(self, layers=self.layers.under(plan))
        return replace(self, layers=tuple(layer.under(plan) for layer in self.layers))
