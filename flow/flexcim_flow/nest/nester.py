"""The pipeline of nesting: a dense model and its pruned one go in; one model with two plans comes out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flexcim.packed.folder import read_pruned
from flexcim.packed.plans import NestedPlan
from flexcim.quiet import quiet
from flexcim_flow.common.journal import Journal
from flexcim_flow.common.steps import Progress, Steps
from flexcim_flow.layer.updates import damped
from flexcim_flow.measure.stages import Meter
from flexcim_flow.model.blocks import Block
from flexcim_flow.model.checkpoint import Checkpoint, load_checkpoint
from flexcim_flow.nest.layers import NestedLayer, NestError, layers_of, under
from flexcim_flow.nest.request import NestRequest
from flexcim_flow.nest.result import NestedResult
from flexcim_flow.nest.weights import Nested, nest, nest_by_magnitude
from flexcim_flow.passes.statistics import InputStatistics
from flexcim_flow.passes.stream import BlockStream
from flexcim_flow.samples.text import check_unseen, draw_samples, read_text
from flexcim_flow.samples.windows import EvaluationText, check_memory, tokens_of, window_of

__all__ = ["nest_model"]


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
    # Before the models, which take longer: a text that is not there is told at once.
    text = read_text(request.calibration)
    words = None if request.evaluation is None else read_text(request.evaluation)
    steps = Steps(progress)
    steps.begin("loading the models")
    sparser = read_pruned(request.sparser)
    place = request.place
    dense = load_checkpoint(request.model, streamed=True, device=place)
    base = load_checkpoint(request.sparser_checkpoint, streamed=True, device=place)
    layers = layers_of(dense, base, sparser, request.rest)
    _check_adds(layers, request)
    _check_predicts(dense)
    length = window_of(request.length, dense)
    check_memory(request.samples, length, dense)
    samples = draw_samples(tokens_of(text, dense), request.samples, length, request.seed)
    evaluation = None
    if words is not None:
        check_unseen(text, words)
        evaluation = EvaluationText.of(words, dense, length, request.stride)
    steps.total = 1 + len(dense.blocks) + (0 if evaluation is None else 1 + 2 * len(NestedPlan))
    meter = Meter(dense, evaluation, journal.once, steps.begin)

    meter.measure("dense")
    zeros, notes = _nest_blocks(dense, base, layers, _Streams(dense, base, samples, request.share), journal, steps)
    for plan in NestedPlan:
        for integers in (False, True):
            stage = plan.value + ("_quantized" if integers else "")
            meter.measure(stage, partial(under, layers, plan, integers=integers))
    return NestedResult(
        checkpoint=dense,
        request=request,
        sparser=sparser,
        samples=samples,
        layers=layers,
        zeros=zeros,
        given_zeros={name: note["given_zeros"] for name, note in notes.items()},
        changed={name: note["changed"] for name, note in notes.items()},
        residuals={name: note["residual"] for name, note in notes.items()},
        evaluations=meter.found,
    )


def _check_predicts(checkpoint: Checkpoint) -> None:
    """NestError if the model predicts no next token."""
    if checkpoint.tokenizer is None or not checkpoint.model.can_generate():
        raise NestError(f"{checkpoint.name} does not predict the next token, so it has no prefill and no decode")


def _check_adds(layers: Sequence[NestedLayer], request: NestRequest) -> None:
    """NestError if an option speaks of what the denser plan adds, but it adds nothing to any layer."""
    if any(layer.tiling.rest is not None for layer in layers):
        return
    for name, value in (("rest", request.rest), ("share", request.share)):
        if value:
            why = "is dense" if request.rest is not None else "keeps more than half of its weights"
            raise NestError(f"{name} {value} has no effect, as each layer of {request.sparser} {why}")


def _nest_blocks(
    dense: Checkpoint,
    base: Checkpoint,
    layers: Sequence[NestedLayer],
    streams: _Streams,
    journal: Journal,
    steps: Steps,
) -> tuple[dict[str, tuple[int, int]], dict[str, dict[str, Any]]]:
    """Nest block by block; give the zeros under both plans and what came of each layer, by name."""
    zeros: dict[str, tuple[int, int]] = {}
    notes: dict[str, dict[str, Any]] = {}
    for index, (block, base_block) in enumerate(zip(dense.blocks, base.blocks, strict=True)):
        steps.begin(f"nesting block {index + 1} of {len(dense.blocks)}")
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
    return zeros, notes


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
