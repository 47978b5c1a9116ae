"""A packed model: its layers, and what it is under each plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flexcim.config.macro import MacroConfig
from flexcim.packed.layer import LazyLayers, PackedError, PackedLayer
from flexcim.packed.plans import NestedPlan
from flexcim.packed.tiling import LayerTiling

__all__ = ["PackedModel"]


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
