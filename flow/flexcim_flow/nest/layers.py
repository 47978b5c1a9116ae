"""The layers of a dense model and of its pruned one, side by side: each gets a place for the weights that it adds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from flexcim.config.pattern import Pattern
from flexcim.errors import FlexCiMError
from flexcim.packed.model import PackedModel
from flexcim.packed.plans import NestedPlan
from flexcim.packed.tiling import LayerTiling, tile_layer
from flexcim_flow.layer.quantization import QuantizedLinear
from flexcim_flow.model.blocks import Block, LinearLayer
from flexcim_flow.model.checkpoint import Checkpoint
from flexcim_flow.nest.weights import Nested, quantize_nested

__all__ = ["NestError", "NestedLayer", "default_rest", "layers_of", "under"]


class NestError(FlexCiMError):
    """A pruned model that cannot be the base of a model, or an option that fits neither; the message names both."""


@dataclass(frozen=True, eq=False, kw_only=True)
class NestedLayer:
    """One linear layer with two plans.

    Parameters
    ----------
    name : str
        Its path in the model.
    block : Block
        Its block in the model, whose weights are those of the denser plan.
    layer : LinearLayer
        The layer in it.
    base_block : Block
        Its block in the pruned model.
    base_layer : LinearLayer
        The layer in that: where it is not zero, a weight is the base's.
    tiling : LayerTiling
        How base and rest lie on the macro.
    """

    name: str
    block: Block
    layer: LinearLayer
    base_block: Block
    base_layer: LinearLayer
    tiling: LayerTiling

    def nested(self) -> Nested:
        """Its weights, from wherever its blocks are."""
        with self.block.loaded(), self.base_block.loaded():
            weight, of_base = self.layer.weight.cpu(), self.base_layer.weight.cpu() != 0
            return Nested(weight * of_base, weight * ~of_base)

    def product(self, plan: NestedPlan, *, integers: bool) -> Callable[[Tensor], Tensor]:
        """The layer's product under a plan, in float32 or in the hardware's arithmetic, without its bias.

        Its block in the model must be loaded: what the product computes with is where that is.
        """
        nested, device = self.nested(), self.layer.weight.device
        if not integers:
            matrix = (nested.denser if plan is NestedPlan.DENSER else nested.base).to(device)
            return lambda inputs: inputs @ matrix.T
        base, rest, scales = quantize_nested(nested, self.tiling.config.weight_bits)
        weights = base + rest if plan is NestedPlan.DENSER else base
        return QuantizedLinear(weights, scales, activation_bits=self.tiling.config.activation_bits).to(device)


@contextlib.contextmanager
def under(layers: Sequence[NestedLayer], plan: NestedPlan, block: Block, *, integers: bool) -> Iterator[None]:
    """Let the layers of a loaded block compute under a plan for as long as the context is open."""
    with contextlib.ExitStack() as handles:
        for layer in layers:
            if layer.block is block:
                handles.callback(layer.layer.substitute(layer.product(plan, integers=integers)).remove)
        yield


def default_rest(base: Pattern) -> Pattern | None:
    """A rest for a base: one of the same pattern, so that the denser plan has twice as many weights; none for a base
    that keeps more than half."""
    return base if 2 * base.n <= base.m else None


def layers_of(
    dense: Checkpoint, base: Checkpoint, sparser: PackedModel, rest: Pattern | None
) -> tuple[NestedLayer, ...]:
    """The layers, tiled; NestError if the models do not belong together."""
    tilings = dict(sparser.tilings)
    if sparser.nested:
        raise NestError(f"{base.folder.parent} has two plans already, but the base of a nested model must have one")
    of_base = {layer.name: (block, layer) for block in base.blocks for layer in block.layers}
    if len(dense.blocks) != len(base.blocks):
        raise NestError(f"{dense.name} has {len(dense.blocks)} blocks, but {base.folder} has {len(base.blocks)}")
    found = []
    for block in dense.blocks:
        for layer in block.layers:
            tiling = tilings.get(layer.name)
            if tiling is None or layer.name not in of_base:
                raise NestError(f"{base.folder.parent} has no layer {layer.name!r}, which {dense.name} has")
            base_block, base_layer = of_base[layer.name]
            for shape in (base_layer.shape, (tiling.outputs, tiling.inputs)):
                if shape != layer.shape:
                    raise NestError(
                        f"layer {layer.name!r} is {list(layer.shape)} in {dense.name}, but {list(shape)} in "
                        f"{base.folder.parent}"
                    )
            found.append(
                NestedLayer(
                    name=layer.name,
                    block=block,
                    layer=layer,
                    base_block=base_block,
                    base_layer=base_layer,
                    tiling=_tiling(layer.name, tiling, rest),
                )
            )
    _check_scales(sparser, base.folder.parent)
    return tuple(found)


def _tiling(name: str, base: LayerTiling, rest: Pattern | None) -> LayerTiling:
    """The tiling with a rest, if it gets one."""
    pattern = None if base.pattern.is_dense else rest or default_rest(base.pattern)
    if pattern is None:
        return base
    try:
        return tile_layer(base.config, base.outputs, base.inputs, base.pattern, rest=pattern)
    except FlexCiMError as error:
        raise NestError(f"layer {name!r}: {error}") from None


def _check_scales(sparser: PackedModel, folder: Path) -> None:
    """NestError if activations have one scale for all tokens, which was calibrated for one plan."""
    for layer in sparser.layers:
        if layer.activation_scale is not None:
            raise NestError(
                f"{folder}: layer {layer.name!r} has the activation scale {layer.activation_scale}, calibrated for one "
                "plan, but a nested model needs a scale for each token (flexcim prune --activations token)"
            )
