"""A nested model as the macro loads it: both plans, packed layer by layer."""

from __future__ import annotations

from flexcim.packed.cells import pack_layer
from flexcim.packed.layer import PackedLayer
from flexcim.packed.model import PackedModel
from flexcim.packed.plans import NestedPlan
from flexcim_flow.nest.layers import NestedLayer
from flexcim_flow.nest.result import NestedResult
from flexcim_flow.nest.weights import quantize_nested
from flexcim_flow.prune.packing import PackedOnDemand

__all__ = ["pack_nested"]


def pack_nested(result: NestedResult) -> PackedModel:
    """All layers as they are loaded into the macro; each is packed when it is asked for."""
    metadata = {
        "model": result.checkpoint.name,
        "base": dict(result.sparser.metadata),
        "sparsity": {plan.value: result.sparsity(plan) for plan in NestedPlan},
    }
    return PackedModel(
        result.sparser.config,
        metadata,
        PackedOnDemand(result.layers, _pack_one, lambda layer: (layer.block, layer.base_block)),
    )


def _pack_one(layer: NestedLayer) -> PackedLayer:
    base, rest, scales = quantize_nested(layer.nested(), layer.tiling.config.weight_bits)
    parts = [base] if layer.tiling.rest is None else [base, rest]
    weights, offsets = pack_layer(layer.tiling, *(part.numpy() for part in parts))
    return PackedLayer(
        name=layer.name,
        tiling=layer.tiling,
        activation_scale=None,
        weight_scales=scales.numpy(),
        weights=weights,
        offsets=offsets,
    )
