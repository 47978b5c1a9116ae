"""The pipeline: a checkpoint and a text go in; a pruned model, its plan and its quantised layers come out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor

from flexcim.config import PRESETS, MacroConfig
from flexcim.errors import FlexCiMError
from flexcim.pattern import Pattern
from flexcim.tiling import tile_layer
from flow.blocks import Block, LinearLayer
from flow.checkpoint import Checkpoint, load_checkpoint
from flow.evaluation import Evaluation, evaluate_blocks
from flow.images import draw_images, read_images
from flow.journal import Journal
from flow.masks import nm_mask
from flow.options import DEFAULT_LENGTH, DEFAULT_SAMPLES, ActivationScale
from flow.outliers import find_outliers
from flow.quantization import activation_scale
from flow.quiet import quiet
from flow.result import Evaluations, PrunedLayer, PruneResult, quantized
from flow.scores import wanda_scores
from flow.selection import BlockFacts, Choice, check_target, select
from flow.statistics import InputStatistics
from flow.stream import BlockStream
from flow.text import draw_samples, read_text, tokenize

__all__ = ["Progress", "PruneError", "prune"]

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called before each step with its name, the steps that are done, and the number of all steps."""


class PruneError(FlexCiMError):
    """An option that does not fit the model; the message is one sentence."""


@quiet()
def prune(
    model_path: str | os.PathLike[str],
    *,
    sparsity: float,
    calibration_text: str | os.PathLike[str],
    evaluation_text: str | os.PathLike[str] | None = None,
    config: MacroConfig = PRESETS["flexcim"],
    samples: int = DEFAULT_SAMPLES,
    length: int | None = None,
    seed: int = 0,
    activations: ActivationScale = ActivationScale.TOKEN,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> PruneResult:
    """Prune a model with FLOW, for one macro.

    The calibration samples pass the dense model, whose scores give each block's outliers; the integer program then
    chooses a pattern for each block that the macro's menu has. A second pass prunes block by block: a block is scored
    on the outputs of the pruned blocks before it, masked, and run again. Nothing is retrained.

    With a journal the model's blocks are in memory one at a time, and pruned ones are stored in the journal's folder;
    without one the whole model is in memory, and nothing is written.

    Parameters
    ----------
    model_path : path
        Local folder of a checkpoint in Hugging Face format.
    sparsity : float
        Least share of the block layers' weights to drop, 0 to 1.
    calibration_text : path
        UTF-8 file to take the calibration samples from; for a model of images a safetensors file with ``pixel_values``
        [images, channels, height, width], floating.
    evaluation_text : path, optional
        UTF-8 file to measure bits per byte on.
    config : MacroConfig
        The macro: its menu, and the widths of weights and activations.
    samples : int
        Calibration samples.
    length : int, optional
        Tokens of a sample and of an evaluation window; by default 512, or the model's context if that is shorter.
    seed : int
        Seed of the samples' places.
    activations : ActivationScale
        Whether each token gets its own scale or each layer one from the calibration.
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
    evaluation = None if evaluation_text is None else read_text(evaluation_text)
    steps = _Steps(progress)
    steps.begin("loading the model")
    checkpoint = load_checkpoint(model_path, streamed=journal is not None, device=device)
    model, blocks = checkpoint.model, checkpoint.blocks
    check_target([_shapes(block) for block in blocks], sparsity, config.patterns)
    length = _window(checkpoint, length)
    windows = _samples(checkpoint, calibration_text, samples, length, seed)
    if evaluation is not None and not model.can_generate():
        raise PruneError(f"{checkpoint.name} does not predict the next token, so it cannot be evaluated on a text")
    once = _ask if journal is None else journal.once
    evaluations: dict[str, Evaluation] = {}

    def measure(
        name: str, during: Callable[[Block], AbstractContextManager[None]] = lambda block: nullcontext()
    ) -> None:
        if evaluation is None:
            return
        steps.begin(f"evaluating the {name} model")
        tokens, size = _tokens(evaluation, checkpoint), len(evaluation.encode())
        found = once(
            f"evaluation-{name}",
            lambda: evaluate_blocks(model, blocks, tokens, size, length, during=during).to_mapping(),
        )
        evaluations[name] = Evaluation.from_mapping(found)

    steps.total = 2 + len(blocks) + (0 if evaluation is None else 3)
    measure("dense")
    steps.begin("looking for outliers")
    stream = BlockStream(model, blocks, windows)
    prunable = [block for block in blocks if block.layers]
    facts = once("facts", lambda: [_facts(block, stream.dense) for block in prunable])
    selection = select(
        [BlockFacts(share, locality, _shapes(block)) for block, (share, locality) in zip(prunable, facts, strict=True)],
        sparsity,
        config.patterns,
    )
    choices = dict(zip(prunable, selection.choices, strict=True))
    layers: list[PrunedLayer] = []
    for index, block in enumerate(blocks):
        steps.begin(f"pruning block {index + 1} of {len(blocks)}")
        choice = choices.get(block)
        stored = journal is not None and checkpoint.recover(block, journal.shards)
        with block.loaded():
            if choice is not None and not stored:
                _prune_block(block, choice.pattern, stream.measure())
                checkpoint.settle(block)
                if journal is not None:
                    checkpoint.store(block, journal.shards)
            seen = stream.advance()
            if choice is not None:
                layers += [_pruned_layer(layer, block, choice, config, seen, activations) for layer in block.layers]
    measure("pruned")
    measure("quantized", lambda block: quantized(layer for layer in layers if layer.block is block))
    return PruneResult(
        checkpoint=checkpoint,
        config=config,
        target=sparsity,
        seed=seed,
        samples=windows,
        selection=selection,
        layers=tuple(layers),
        evaluations=Evaluations(**evaluations) if evaluations else None,
    )


def _ask(name: str, find: Callable[[], Any]) -> Any:
    """`Journal.once` without a journal."""
    return find()


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


def _samples(checkpoint: Checkpoint, path: str | os.PathLike[str], samples: int, length: int, seed: int) -> Tensor:
    """What the model is calibrated on: windows of a text, or images."""
    if checkpoint.tokenizer is None:
        images = read_images(path)
        _check_images(checkpoint, images)
        return draw_images(images, samples, seed)
    return draw_samples(_tokens(read_text(path), checkpoint), samples, length, seed)


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


def _shapes(block: Block) -> tuple[tuple[int, int], ...]:
    return tuple(layer.shape for layer in block.layers)


def _facts(block: Block, seen: Mapping[str, InputStatistics]) -> tuple[float, float]:
    """What the selection asks about a block, from its scores in the dense model: share and locality of its outliers."""
    with block.loaded():
        found = find_outliers([wanda_scores(layer.weight, seen[layer.name].norms) for layer in block.layers])
    return found.share, found.locality


def _prune_block(block: Block, pattern: Pattern, seen: Mapping[str, InputStatistics]) -> None:
    """Set the weights that the pattern drops to zero, in place."""
    for layer in block.layers:
        weight = layer.weight
        mask = nm_mask(wanda_scores(weight, seen[layer.name].norms.to(weight.device)), pattern)
        weight.masked_fill_(~mask, 0.0)


def _pruned_layer(
    layer: LinearLayer,
    block: Block,
    choice: Choice,
    config: MacroConfig,
    seen: Mapping[str, InputStatistics],
    activations: ActivationScale,
) -> PrunedLayer:
    """The layer's record; its block must be loaded."""
    per_tensor = activations is ActivationScale.TENSOR
    return PrunedLayer(
        name=layer.name,
        block=block,
        layer=layer,
        choice=choice,
        tiling=tile_layer(config, *layer.shape, choice.pattern),
        zeros=int((layer.weight == 0).sum()),
        activation_scale=activation_scale(seen[layer.name].largest, config.activation_bits) if per_tensor else None,
    )
