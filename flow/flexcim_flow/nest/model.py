"""The pipeline of nesting: a dense model and its pruned one go in; one model with two plans comes out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flexcim.config.pattern import Pattern
from flexcim.errors import FlexCiMError
from flexcim.packed.folder import PackedModel, read_pruned
from flexcim.packed.plans import NestedPlan
from flexcim.packed.tiling import LayerTiling, tile_layer
from flexcim_flow.common.journal import Journal
from flexcim_flow.common.quiet import quiet
from flexcim_flow.layer.quantization import QuantizedLinear
from flexcim_flow.layer.updates import damped
from flexcim_flow.measure.evaluation import Evaluation, evaluate_blocks
from flexcim_flow.model.blocks import Block, LinearLayer
from flexcim_flow.model.checkpoint import Checkpoint, load_checkpoint
from flexcim_flow.nest.request import NestRequest
from flexcim_flow.nest.weights import Nested, nest, nest_by_magnitude, quantize_nested
from flexcim_flow.passes.statistics import InputStatistics
from flexcim_flow.passes.stream import BlockStream
from flexcim_flow.prune.calibration import check_memory, tokens_of, window_of
from flexcim_flow.prune.pruner import Progress
from flexcim_flow.samples.text import check_unseen, draw_samples, read_text

__all__ = ["NestError", "NestedLayer", "NestedResult", "default_rest", "nest_model"]


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
        """The layer's product under a plan, in float32 or in the hardware's arithmetic, without its bias."""
        nested = self.nested()
        if not integers:
            matrix = nested.denser if plan is NestedPlan.DENSER else nested.base
            return lambda inputs: inputs @ matrix.T
        base, rest, scales = quantize_nested(nested, self.tiling.config.weight_bits)
        weights = base + rest if plan is NestedPlan.DENSER else base
        return QuantizedLinear(weights, scales, activation_bits=self.tiling.config.activation_bits)


_PRUNED = 0.05
"""A model of which a larger share is zero was pruned before: of dense ones next to nothing is, and the mildest pattern
of the menu, 4:5, leaves a fifth zero, less only at remainders."""


@dataclass(frozen=True, eq=False, kw_only=True)
class NestedResult:
    """A model with two plans, and how it came about.

    Parameters
    ----------
    checkpoint : Checkpoint
        The model under its denser plan, and its tokenizer.
    request : NestRequest
        What was asked for.
    sparser : PackedModel
        The packed model that the base was taken from.
    samples : Tensor
        The calibration samples, [samples, length], int64.
    layers : tuple of NestedLayer
        All linear layers of the blocks, in the model's order.
    zeros : dict
        Zero weights of each layer under both plans, by name: denser, sparser.
    given_zeros : dict
        Zero weights of each layer in the model that was given, by name.
    changed : dict
        Weights of each layer that the denser plan has not as they were given, by name.
    residuals : dict
        Largest relative residual of each layer's least squares, by name; None where none were solved.
    evaluations : dict
        By name, such as ``denser_quantized``; empty without a text.
    """

    checkpoint: Checkpoint
    request: NestRequest
    sparser: PackedModel
    samples: Tensor
    layers: tuple[NestedLayer, ...]
    zeros: dict[str, tuple[int, int]]
    given_zeros: dict[str, int]
    changed: dict[str, int]
    residuals: dict[str, float | None]
    evaluations: dict[str, Evaluation]

    def sparsity(self, plan: NestedPlan) -> float:
        """Share of all the layers' weights that are zero under a plan, counted."""
        index = list(NestedPlan).index(plan)
        return self._share(zeros[index] for zeros in self.zeros.values())

    @property
    def given_sparsity(self) -> float:
        """Share of the layers' weights that were zero in the model that was given, counted."""
        return self._share(self.given_zeros.values())

    @property
    def changed_share(self) -> float:
        """Share of the layers' weights that the denser plan has not as they were given, counted."""
        return self._share(self.changed.values())

    @property
    def was_pruned(self) -> bool:
        """Whether the model was pruned before, so that its weights may have been meant to be the denser plan's."""
        return self.given_sparsity > _PRUNED

    def _share(self, counts: Iterable[int]) -> float:
        return sum(counts) / sum(layer.tiling.outputs * layer.tiling.inputs for layer in self.layers)


def default_rest(base: Pattern) -> Pattern | None:
    """A rest for a base: one of the same pattern, so that the denser plan has twice as many weights; none for a base
    that keeps more than half."""
    return base if 2 * base.n <= base.m else None


@quiet()
def nest_model(request: NestRequest, journal: Journal, *, progress: Progress | None = None) -> NestedResult:
    """Give a pruned model a denser plan that shares its weights.

    The pruned model is the base. Block by block, each layer gets a rest: weights of the dense model that the base
    dropped, chosen and solved for on what the layer gets in the denser plan (`flexcim_flow.nest.weights.nest`). One
    block of each model is in memory at a time.

    Parameters
    ----------
    request : NestRequest
        What is asked for.
    journal : Journal
        Remembers what is finished, for this and later processes.
    progress : callable, optional
        Told about each step.

    Raises
    ------
    FlexCiMError
        If a checkpoint, a text or an option cannot be used; the message is one sentence.
    """
    told = progress or (lambda name, done, total: None)
    sparser = read_pruned(request.sparser)
    dense = load_checkpoint(request.model, streamed=True)
    base = load_checkpoint(request.sparser_checkpoint, streamed=True)
    layers = _layers(dense, base, sparser, request.rest)
    length = window_of(request.length, dense)
    check_memory(request.samples, length, dense)
    calibration = read_text(request.calibration)
    windows = draw_samples(_tokens(calibration, dense), request.samples, length, request.seed)
    evaluation = None if request.evaluation is None else read_text(request.evaluation)
    if evaluation is not None:
        check_unseen(calibration, evaluation)
    total = len(dense.blocks) + (0 if evaluation is None else 5)
    evaluations: dict[str, Evaluation] = {}

    def measure(name: str, during: Callable[[Block], contextlib.AbstractContextManager[None]]) -> None:
        if evaluation is None:
            return
        told(f"evaluating {name.replace('_', ', ')}", total - 5 + len(evaluations), total)
        tokens, size = _tokens(evaluation, dense), len(evaluation.encode())
        found = journal.once(
            f"evaluation-{name}",
            lambda: evaluate_blocks(
                dense.model, dense.blocks, tokens, size, length, request.stride, during
            ).to_mapping(),
        )
        evaluations[name] = Evaluation.from_mapping(found)

    measure("dense", lambda block: contextlib.nullcontext())
    streams = _Streams(dense, base, windows, request.share)
    zeros: dict[str, tuple[int, int]] = {}
    notes: dict[str, dict[str, Any]] = {}
    for index, (block, base_block) in enumerate(zip(dense.blocks, base.blocks, strict=True)):
        told(f"nesting block {index + 1} of {len(dense.blocks)}", index, total)
        of_block = [layer for layer in layers if layer.block is block]
        stored = dense.resume(block, journal.checkpoint)
        with block.loaded(), base_block.loaded():
            found = {} if stored else _nest_block(streams, dense, block, of_block)
            notes |= journal.once(f"nested-{index}", partial(dict, found))
            if not stored:
                dense.store(block, journal.checkpoint)
            streams.advance(of_block)
            for layer in of_block:
                nested = layer.nested()
                zeros[layer.name] = int((nested.denser == 0).sum()), int((nested.base == 0).sum())
    for plan in NestedPlan:
        for integers in (False, True):
            name = plan.value + ("_quantized" if integers else "")
            measure(name, partial(under, layers, plan, integers=integers))
    return NestedResult(
        checkpoint=dense,
        request=request,
        sparser=sparser,
        samples=windows,
        layers=layers,
        zeros=zeros,
        given_zeros={name: note["given_zeros"] for name, note in notes.items()},
        changed={name: note["changed"] for name, note in notes.items()},
        residuals={name: note["residual"] for name, note in notes.items()},
        evaluations=evaluations,
    )


def _nest_block(
    streams: _Streams, dense: Checkpoint, block: Block, layers: Sequence[NestedLayer]
) -> dict[str, dict[str, Any]]:
    """Give the layers of a loaded block a rest in place; what came of each, by name."""
    given = {layer.name: layer.layer.weight.clone() for layer in layers}
    residuals = streams.nest(layers)
    dense.settle(block)
    return {
        layer.name: {
            "given_zeros": int((given[layer.name] == 0).sum()),
            "changed": int((given[layer.name] != layer.layer.weight).sum()),
            "residual": residuals[layer.name],
        }
        for layer in layers
    }


@contextlib.contextmanager
def under(layers: Sequence[NestedLayer], plan: NestedPlan, block: Block, *, integers: bool) -> Iterator[None]:
    """Let the layers of a loaded block compute under a plan for as long as the context is open."""
    with contextlib.ExitStack() as handles:
        for layer in layers:
            if layer.block is block:
                handles.callback(layer.layer.substitute(layer.product(plan, integers=integers)).remove)
        yield


class _Streams:
    """The samples on their way through the denser plan and, if both plans are solved for, through the sparser one."""

    def __init__(self, dense: Checkpoint, base: Checkpoint, samples: Tensor, share: float) -> None:
        self._share = share
        self._denser = BlockStream(dense.model, dense.blocks, samples)
        self._sparser = BlockStream(base.model, base.blocks, samples) if 0 < share < 1 else None

    def nest(self, layers: Sequence[NestedLayer]) -> dict[str, float | None]:
        """Give the layers of the current blocks, which are loaded, a rest in place; tell their residuals by name."""
        denser = self._denser.measure(moments=True)
        sparser = {} if self._sparser is None else self._sparser.measure(moments=True)
        residuals: dict[str, float | None] = {}
        for layer in layers:
            nested = self._nest(layer, denser[layer.name], sparser.get(layer.name))
            layer.layer.weight.copy_(nested.denser)
            residuals[layer.name] = nested.residual
        return residuals

    def _nest(self, layer: NestedLayer, denser: InputStatistics, sparser: InputStatistics | None) -> Nested:
        weight, base, pattern = layer.layer.weight, layer.base_layer.weight, layer.tiling.rest
        if pattern is None:
            return Nested(base, torch.zeros_like(base))
        if not denser.tokens or (sparser is not None and not sparser.tokens):
            return nest_by_magnitude(weight, base, pattern)
        curvature = None if sparser is None else damped(sparser.moments)
        return nest(weight, base, pattern, damped(denser.moments), curvature, share=self._share)

    def advance(self, layers: Sequence[NestedLayer]) -> None:
        """Pass the current blocks, which are loaded; what the base has become is passed under the sparser plan."""
        self._denser.skip()
        if self._sparser is not None:
            for layer in layers:
                layer.base_layer.weight.copy_(layer.nested().base)
            self._sparser.skip()


# -- what goes in ------------------------------------------------------------------------------------------------------


def _layers(dense: Checkpoint, base: Checkpoint, sparser: PackedModel, rest: Pattern | None) -> tuple[NestedLayer, ...]:
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


def _tokens(text: str, checkpoint: Checkpoint) -> Tensor:
    """Tokens of a text; NestError if the model predicts none."""
    if checkpoint.tokenizer is None or not checkpoint.model.can_generate():
        raise NestError(f"{checkpoint.name} does not predict the next token, so it has no prefill and no decode")
    return tokens_of(text, checkpoint)
