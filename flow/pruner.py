"""The pipeline: a checkpoint and a text go in; a pruned model, its plan and its quantised layers come out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from flexcim.config import PRESETS, MacroConfig
from flexcim.errors import FlexCiMError
from flexcim.tiling import tile_layer
from flow.blocks import Block, LinearLayer
from flow.budgets import Budget, SparsityBudget, pose
from flow.checkpoint import Checkpoint, load_checkpoint
from flow.choosing import Evidence, Selection, choose, default_granularity, fits_in_memory
from flow.evaluation import Evaluation, evaluate_blocks
from flow.images import draw_images, read_images
from flow.journal import Journal
from flow.options import (
    DEFAULT_LENGTH,
    DEFAULT_SAMPLES,
    GUARD_SAMPLES,
    ActivationScale,
    Granularity,
    Method,
    Score,
    Update,
)
from flow.quantization import activation_scale
from flow.quiet import quiet
from flow.result import Evaluations, PrunedLayer, PruneResult, quantized, quantized_dense
from flow.selectors import Choice, candidates, units_of
from flow.stream import BlockStream
from flow.streamed import searched
from flow.text import check_unseen, draw_samples, read_text, set_apart, tokenize
from flow.treatment import Numerics, default_treatment, prune_block

__all__ = ["Progress", "PruneError", "prune"]

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called before each step with its name, the steps that are done, and the number of all steps."""


class PruneError(FlexCiMError):
    """An option that does not fit the model; the message is one sentence."""


@quiet()
def prune(
    model_path: str | os.PathLike[str],
    *,
    sparsity: float | None = None,
    budget: Budget | None = None,
    calibration_text: str | os.PathLike[str],
    evaluation_text: str | os.PathLike[str] | None = None,
    config: MacroConfig = PRESETS["flexcim"],
    method: Method = Method.FLOW,
    score: Score | None = None,
    update: Update | None = None,
    granularity: Granularity | None = None,
    samples: int = DEFAULT_SAMPLES,
    length: int | None = None,
    stride: int | None = None,
    seed: int = 0,
    activations: ActivationScale = ActivationScale.TOKEN,
    activation_percentile: float = 100.0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> PruneResult:
    """Prune a model for one macro.

    The calibration samples pass the dense model; the method then chooses a pattern that the macro's menu has for each
    layer, or block. A second pass prunes block by block: a block is measured on the outputs of the pruned blocks before
    it, masked, its kept weights updated, and run again. Nothing is retrained.

    With a journal the model's blocks are in memory one at a time, and pruned ones are stored in the journal's folder;
    without one the whole model is in memory, and nothing is written. `Method.FLOW` has the whole model in memory while
    it chooses, under every pattern of the menu, if that takes no more than `flow.streamed.BENCH_BYTES`; otherwise one
    block under every pattern, and on disk the inputs of all blocks.

    Parameters
    ----------
    model_path : path
        Local folder of a checkpoint in Hugging Face format.
    sparsity : float, optional
        Least share of the block layers' weights to drop, 0 to 1; short for a `SparsityBudget`.
    budget : Budget, optional
        What limits the choice; either this or ``sparsity``.
    calibration_text : path
        UTF-8 file to take the calibration samples from; for a model of images a safetensors file with ``pixel_values``
        [images, channels, height, width], floating. `Method.FLOW` sets an eighth of the text apart, to compare whole
        pruned models on.
    evaluation_text : path, optional
        UTF-8 file to measure bits per byte on; it must share no long passage with the calibration text.
    config : MacroConfig
        The macro: its menu, and the widths of weights and activations.
    method : Method
        Who chooses the patterns.
    score : Score, optional
        What masks are chosen by; by default `Score.OBS` for `Method.FLOW`, and `Score.WANDA` for the others.
    update : Update, optional
        What happens to the kept weights; by default `Update.LSQ` for `Method.FLOW`, and nothing for the others.
    granularity : Granularity, optional
        What gets a pattern of its own; by default each block for `Method.PAPER`, and each layer for the others.
    samples : int
        Calibration samples.
    length : int, optional
        Tokens of a sample and of an evaluation window; by default 512, or the model's context if that is shorter.
    stride : int, optional
        Tokens from one evaluation window to the next; by default the length.
    seed : int
        Seed of the samples' places, and of the labels that `Method.FLOW` draws.
    activations : ActivationScale
        Whether each token gets its own scale or each layer one from the calibration.
    activation_percentile : float
        Percentile of the magnitudes that a layer's scale maps to the largest integer, above 0, up to 100, the largest;
        what is larger is clipped. Other than 100 only with `ActivationScale.TENSOR`.
    device : torch.device or str
        Where blocks are computed.
    progress : callable, optional
        Told about each step.
    journal : Journal, optional
        Remembers what is finished, for this and later processes.

    Raises
    ------
    FlexCiMError
        If the checkpoint, a text or an option cannot be used; the message is one sentence.
    """
    budget = _one_budget(sparsity, budget)
    treatment = default_treatment(method, score, update)
    percentile = _percentile(activations, activation_percentile)
    evaluation = None if evaluation_text is None else read_text(evaluation_text)
    steps = _Steps(progress)
    steps.begin("loading the model")
    checkpoint = load_checkpoint(model_path, streamed=journal is not None, device=device)
    model, blocks = checkpoint.model, checkpoint.blocks
    _check_can_predict(checkpoint, method, evaluation)
    by_block = (granularity or default_granularity(method)) is Granularity.BLOCK
    units = units_of(
        [(block.name, [(layer.name, layer.shape) for layer in block.layers]) for block in blocks], by_block=by_block
    )
    menu = candidates(config.patterns) if method is Method.PAPER else config.patterns
    problem = pose(units, menu, budget)
    length = _window(checkpoint, length)
    windows, apart = _samples(checkpoint, calibration_text, samples, length, seed, guarded=method is Method.FLOW)
    if evaluation is not None:
        check_unseen(read_text(calibration_text), evaluation)
    once = _ask if journal is None else journal.once
    evaluations: dict[str, Evaluation] = {}

    def measure(
        name: str, during: Callable[[Block], AbstractContextManager[None]] = lambda block: nullcontext()
    ) -> None:
        if evaluation is None:
            return
        steps.begin(f"evaluating the {name.replace('_', ', ')} model")
        tokens, size = _tokens(evaluation, checkpoint), len(evaluation.encode())
        found = once(
            f"evaluation-{name}",
            lambda: evaluate_blocks(model, blocks, tokens, size, length, stride, during).to_mapping(),
        )
        evaluations[name] = Evaluation.from_mapping(found)

    steps.total = 2 + len(blocks) + (0 if evaluation is None else 4)
    measure("dense")
    if evaluation is not None:
        dense_scales = _dense_scales(BlockStream(model, blocks, windows), blocks, percentile, config)
        measure("dense_quantized", lambda block: quantized_dense(block, config, dense_scales))
    steps.begin("choosing the patterns")
    by_name = {layer.name: layer for block in blocks for layer in block.layers}
    layers_of_units = tuple(tuple(by_name[name] for name in unit.layers) for unit in units)
    in_memory = method is Method.FLOW and fits_in_memory(problem, layers_of_units)
    block_of = {layer.name: block for block in blocks for layer in block.layers}

    def select() -> dict[str, Any]:
        enough = searched(windows, layers_of_units) if method is Method.FLOW else windows
        watched = BlockStream(model, blocks, enough, moments=in_memory)
        evidence = Evidence(
            model=model,
            units=layers_of_units,
            dense={} if method is Method.UNIFORM else watched.dense,
            treatment=treatment,
            samples=windows,
            guard=apart,
            seed=seed,
            blocks=blocks,
            once=once,
            loaded=lambda layer: block_of[layer.name].loaded(),
        )
        return choose(method, problem, evidence).to_mapping()

    selection = Selection.from_mapping(once("selection", select))
    stream = BlockStream(model, blocks, windows)
    choices = {
        name: choice for unit, choice in zip(units, selection.assignment.choices, strict=True) for name in unit.layers
    }
    layers: list[PrunedLayer] = []
    numerics: dict[str, Numerics] = {}
    for index, block in enumerate(blocks):
        steps.begin(f"pruning block {index + 1} of {len(blocks)}")
        stored = journal is not None and checkpoint.recover(block, journal.shards)
        with block.loaded():
            found: dict[str, Numerics] = {}
            if block.layers and not stored:
                found = prune_block(block, choices, treatment, stream.measure(moments=treatment.needs_moments))
                checkpoint.settle(block)
            # Noted before the block is stored, so that it is there for the process that finds the block stored.
            noted = once(f"numerics-{index}", partial(_mapping, found))
            numerics |= {name: Numerics(**values) for name, values in noted.items()}
            if block.layers and not stored and journal is not None:
                checkpoint.store(block, journal.shards)
            scales = _advance(stream, percentile, config)
            layers += [
                _pruned_layer(layer, block, choices[layer.name], config, scales.get(layer.name))
                for layer in block.layers
            ]
    measure("pruned")
    measure("quantized", lambda block: quantized(layer for layer in layers if layer.block is block))
    return PruneResult(
        checkpoint=checkpoint,
        config=config,
        budget=budget,
        method=method,
        treatment=treatment,
        numerics=numerics,
        seed=seed,
        samples=windows,
        selection=selection,
        layers=tuple(layers),
        evaluations=Evaluations(**evaluations) if evaluations else None,
    )


def _percentile(activations: ActivationScale, percentile: float) -> float | None:
    """The percentile that layers' scales come from; None if each token has its own."""
    if not 0 < percentile <= 100:
        raise PruneError(f"activation percentile must be above 0 and at most 100, not {percentile}")
    if activations is ActivationScale.TENSOR:
        return percentile
    if percentile != 100:
        raise PruneError(
            f"activation percentile {percentile} needs activations tensor, not {activations.value}, which scales each"
            " token by its own largest magnitude"
        )
    return None


def _advance(stream: BlockStream, percentile: float | None, config: MacroConfig) -> dict[str, Tensor]:
    """Pass a block, and give the scales of its layers' activations by name; none if each token has its own."""
    if percentile is None:
        stream.skip()
        return {}
    return {
        name: activation_scale(magnitudes.percentile(percentile), config.activation_bits)
        for name, magnitudes in stream.advance().items()
    }


def _dense_scales(
    stream: BlockStream, blocks: Sequence[Block], percentile: float | None, config: MacroConfig
) -> dict[str, Tensor]:
    """Scales of the activations in the dense model, by the layer's name; none if each token has its own."""
    scales: dict[str, Tensor] = {}
    if percentile is not None:
        for _ in blocks:
            scales |= _advance(stream, percentile, config)
    return scales


def _one_budget(sparsity: float | None, budget: Budget | None) -> Budget:
    if budget is None and sparsity is not None:
        return SparsityBudget(sparsity)
    if budget is not None and sparsity is None:
        return budget
    raise PruneError("either a sparsity or a budget must be given, and not both")


def _ask(name: str, find: Callable[[], Any]) -> Any:
    """`Journal.once` without a journal."""
    return find()


def _mapping(numerics: Mapping[str, Numerics]) -> dict[str, Any]:
    """JSON's plain values of each."""
    return {name: asdict(of_layer) for name, of_layer in numerics.items()}


class _Steps:
    """Counts the steps of a run for whoever shows its progress."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._begun = 0
        self.total = 1

    def begin(self, name: str) -> None:
        """Say that the next step begins."""
        if self._progress is not None:
            self._progress(name, self._begun, self.total)
        self._begun += 1


def _window(checkpoint: Checkpoint, length: int | None) -> int:
    """Tokens of a window: those asked for, which must fit the model's context, or as many as fit."""
    context = checkpoint.context
    if length is None:
        return DEFAULT_LENGTH if context is None else min(DEFAULT_LENGTH, context)
    if context is not None and length > context:
        raise PruneError(f"length must be at most the {context} tokens that the model sees at once, not {length}")
    return length


def _check_can_predict(checkpoint: Checkpoint, method: Method, evaluation: str | None) -> None:
    """PruneError if something is asked for that needs the loss of the next token, and the model predicts none."""
    if checkpoint.model.can_generate():
        return
    if evaluation is not None:
        raise PruneError(f"{checkpoint.name} does not predict the next token, so it cannot be evaluated on a text")
    if method is Method.FLOW:
        others = ", ".join(other.value for other in Method if other is not Method.FLOW)
        raise PruneError(
            f"{checkpoint.name} does not predict the next token, whose loss method flow is guided by; use {others}"
        )


def _samples(
    checkpoint: Checkpoint, path: str | os.PathLike[str], samples: int, length: int, seed: int, *, guarded: bool
) -> tuple[Tensor, Tensor]:
    """What the model is calibrated on, windows of a text or images, and what is set apart to compare models on."""
    if checkpoint.tokenizer is None:
        images = read_images(path)
        _check_images(checkpoint, images)
        drawn = draw_images(images, samples, seed)
        return drawn, drawn[:0]
    tokens = _tokens(read_text(path), checkpoint)
    if not guarded:
        drawn = draw_samples(tokens, samples, length, seed)
        return drawn, drawn[:0]
    measured, apart = set_apart(tokens, length)
    guard = draw_samples(apart, min(samples, GUARD_SAMPLES), length, seed)
    return draw_samples(measured, samples, length, seed), guard


def _check_images(checkpoint: Checkpoint, images: Tensor) -> None:
    """PruneError if the model does not read images of this shape."""
    config = checkpoint.model.config
    size = getattr(config, "image_size", None)
    if size is None:
        return
    height, width = (size, size) if isinstance(size, int) else size
    wanted, given = [config.num_channels, height, width], list(images.shape[1:])
    if given != wanted:
        raise PruneError(f"{checkpoint.name} reads images of shape {wanted}, but those for calibration are {given}")


def _tokens(text: str, checkpoint: Checkpoint) -> Tensor:
    """Tokens of a text; PruneError if the model does not know one of them."""
    assert checkpoint.tokenizer is not None, "the model reads text"
    tokens = tokenize(text, checkpoint.tokenizer)
    known = checkpoint.model.get_input_embeddings().num_embeddings
    largest = int(tokens.max()) if len(tokens) else 0
    if largest >= known:
        raise PruneError(f"the tokenizer of {checkpoint.name} gives token {largest}, but the model has only {known}")
    return tokens


def _pruned_layer(
    layer: LinearLayer,
    block: Block,
    choice: Choice,
    config: MacroConfig,
    scale: Tensor | None,
) -> PrunedLayer:
    """The layer's record; its block must be loaded."""
    return PrunedLayer(
        name=layer.name,
        block=block,
        layer=layer,
        choice=choice,
        tiling=tile_layer(config, *layer.shape, choice.pattern),
        zeros=int((layer.weight == 0).sum()),
        activation_scale=scale,
    )
