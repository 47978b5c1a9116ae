"""A model's layers on one accelerator: which of them stay on the chip, and how each one runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexcim.compiler.layer import CompiledLayer, compile_layer, compile_resident_layer
from flexcim.compiler.mapping import CompileError
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.pattern import Pattern, union
from flexcim.errors import FlexCiMError
from flexcim.packed.cells import pack_layer, unpack_layer, unpack_parts
from flexcim.packed.layer import PackedLayer
from flexcim.packed.model import PackedModel

__all__ = ["LayerShape", "compile_model", "layer_cells", "layer_shapes", "pattern_on", "patterns_on"]

_DENSE = Pattern(1, 1)


@dataclass(frozen=True)
class LayerShape:
    """What the compiler must know of a layer.

    Parameters
    ----------
    name : str
        Its name in the model.
    outputs, inputs : int
        Shape of its weight matrix.
    pattern : Pattern
        Its pattern; of a nested layer that of the base.
    rest : Pattern, optional
        Of a nested layer under its denser plan, the pattern of the rest.
    """

    name: str
    outputs: int
    inputs: int
    pattern: Pattern
    rest: Pattern | None = None

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """The patterns of its parts, as those of `LayerTiling`."""
        return (self.pattern,) if self.rest is None else (self.pattern, self.rest)


def pattern_on(config: AcceleratorConfig, pattern: Pattern) -> Pattern:
    """The pattern itself if the menu has it, otherwise dense, where zeros are weights like others.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator, whose macros have the menu.
    pattern : Pattern
        The layer's pattern.

    Raises
    ------
    CompileError
        If the menu has neither.
    """
    for one in (pattern, _DENSE):
        if one in config.macro.patterns:
            return one
    menu = " ".join(map(str, config.macro.patterns))
    raise CompileError(f"pattern {pattern} is not on the menu {menu}, and neither is {_DENSE}, which can hold it")


def patterns_on(config: AcceleratorConfig, patterns: tuple[Pattern, ...]) -> tuple[Pattern, ...]:
    """The patterns of a layer's parts if the menu has them all; otherwise that of their sum, as `pattern_on` finds it.

    Raises
    ------
    CompileError
        If the menu has not even that.
    """
    if all(pattern in config.macro.patterns for pattern in patterns):
        return patterns
    return (pattern_on(config, union(patterns)),)


def layer_shapes(model: PackedModel, config: AcceleratorConfig) -> list[LayerShape]:
    """The layers of a packed model, as an accelerator can run them; no array is read.

    Parameters
    ----------
    model : PackedModel
        The model, under the plan that is to run.
    config : AcceleratorConfig
        The accelerator; its macros may differ from the one that the model is packed for.

    Raises
    ------
    CompileError
        If a layer's pattern cannot run there, or its numbers have more bits than the accelerator's.
    """
    for name in ("weight_bits", "activation_bits"):
        packed, given = getattr(model.config, name), getattr(config.macro, name)
        if packed > given:
            raise CompileError(f"the model is packed for {name} = {packed}, but the accelerator has {given}")
    shapes = []
    for name, tiling in model.tilings.items():
        try:
            patterns = patterns_on(config, tiling.patterns)
        except CompileError as error:
            raise CompileError(f"layer {name!r}: {error}") from None
        shapes.append(LayerShape(name, tiling.outputs, tiling.inputs, *patterns))
    return shapes


def compile_model(
    config: AcceleratorConfig,
    shapes: Sequence[LayerShape],
    vectors: int,
    done: Callable[[str], None] = lambda name: None,
) -> dict[str, CompiledLayer]:
    """Compile layers that run one after the other, again and again.

    For each number of banks that could be set apart in every macro, the layers that gain most cycles for the place they
    need stay there, as many as fit, and the others stream through the banks that are left. Chosen is what takes the
    fewest cycles for a pass over all layers, by the exact cycle model.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    shapes : sequence of LayerShape
        The layers.
    vectors : int
        Vectors of each.
    done : callable, optional
        Called with the name of each layer that has been compiled for the first time.

    Returns
    -------
    dict of str to CompiledLayer
        By name, in the order of the layers.

    Raises
    ------
    CompileError
        If a layer cannot be compiled; the message names it.
    """
    streaming = {}
    for shape in shapes:
        streaming[shape.name] = _compile(config, shape, vectors, config.macro.banks)
        done(shape.name)
    best = streaming
    for reserved in range(1, config.macro.banks + 1):
        plan = _plan(config, shapes, vectors, reserved, streaming)
        if plan is not None and _total(plan.values()) < _total(best.values()):
            best = plan
    return best


def _total(layers: Iterable[CompiledLayer]) -> int:
    return sum(layer.cycles.cycles for layer in layers)


def _compile(config: AcceleratorConfig, shape: LayerShape, vectors: int, banks: int) -> CompiledLayer:
    try:
        return compile_layer(config, shape.outputs, shape.inputs, shape.pattern, vectors, rest=shape.rest, banks=banks)
    except FlexCiMError as error:
        raise CompileError(f"layer {shape.name!r}: {error}") from None


def _plan(
    config: AcceleratorConfig,
    shapes: Sequence[LayerShape],
    vectors: int,
    reserved: int,
    streaming: dict[str, CompiledLayer],
) -> dict[str, CompiledLayer] | None:
    """The layers with the last ``reserved`` banks of each macro set apart; None if that leaves a layer no bank, or
    there is nothing to keep in them."""
    banks = config.macro.banks - reserved
    free = {(macro, bank) for macro in range(config.macros) for bank in range(banks, config.macro.banks)}

    def resident_layer(shape: LayerShape, places: frozenset[tuple[int, int]]) -> CompiledLayer | None:
        return compile_resident_layer(
            config, shape.outputs, shape.inputs, shape.pattern, vectors, places, rest=shape.rest
        )

    def gain(shape: LayerShape) -> float:
        layer = resident_layer(shape, places)
        if layer is None:
            return 0
        return (streaming[shape.name].cycles.cycles - layer.cycles.cycles) / len(layer.tiling.tiles)

    places = frozenset(free)
    gains = {shape.name: gain(shape) for shape in shapes}
    resident: dict[str, CompiledLayer] = {}
    for shape in sorted(shapes, key=lambda one: -gains[one.name]):
        if gains[shape.name] <= 0:
            break
        layer = resident_layer(shape, frozenset(free))
        if layer is not None:
            resident[shape.name] = layer
            free -= {(load.macro, load.bank) for load in layer.schedule.loading}
    if not resident or (not banks and len(resident) < len(shapes)):
        return None
    return {shape.name: resident.get(shape.name) or _compile(config, shape, vectors, banks) for shape in shapes}


def layer_cells(packed: PackedLayer, compiled: CompiledLayer) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
    """A packed layer's cells as the compiled layer places them: moved, where G, menu or macro differ.

    Parameters
    ----------
    packed : PackedLayer
        The layer as it is packed.
    compiled : CompiledLayer
        The same layer as it is to run.

    Returns
    -------
    weights : int8 [tile, row, sub_macro, column]
        Weights of the cells, for ``compiled.tiling``.
    offsets : uint8 [tile, row, sub_macro, column]
        Their offsets.

    Raises
    ------
    CompileError
        If a weight does not fit the accelerator's bits.
    """
    packed_as = packed.tiling
    mode = (packed_as.config, packed_as.patterns, packed_as.groups)
    if mode == (compiled.tiling.config, compiled.tiling.patterns, compiled.tiling.groups):
        return packed.weights, packed.offsets
    cells = packed_as, packed.weights, packed.offsets
    try:
        # On a menu that lacks a part's pattern there is one part, which is the sum.
        parts = (unpack_layer(*cells),) if compiled.tiling.rest is None else unpack_parts(*cells)
        return pack_layer(compiled.tiling, *parts)
    except FlexCiMError as error:
        raise CompileError(f"layer {packed.name!r}: {error}") from None
