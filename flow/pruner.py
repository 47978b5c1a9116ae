"""The pipeline: a checkpoint and a text go in; a pruned model, its plan and its quantised layers come out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TypeAlias

from torch import Tensor

from flexcim.config import PRESETS, MacroConfig
from flexcim.errors import FlexCiMError
from flexcim.pattern import Pattern
from flexcim.tiling import LayerTiling, tile_layer
from flow.blocks import Block, LinearLayer, find_blocks
from flow.checkpoint import Checkpoint, load_checkpoint
from flow.evaluation import Evaluation, evaluate
from flow.masks import nm_mask
from flow.options import DEFAULT_LENGTH, DEFAULT_SAMPLES, ActivationScale
from flow.outliers import find_outliers
from flow.quantization import activation_scale, quantize_weights, replaced
from flow.quiet import quiet
from flow.result import Evaluations, PrunedLayer, PruneResult
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
    progress: Progress | None = None,
) -> PruneResult:
    """Prune a causal language model with FLOW, for one macro.

    The calibration samples pass the dense model, whose scores give each block's outliers; the integer program then
    chooses a pattern for each block that the macro's menu has. A second pass prunes block by block: a block is scored
    on the outputs of the pruned blocks before it, masked, and run again. Nothing is retrained. At last the layers are
    quantised.

    Parameters
    ----------
    model_path : path
        Local folder of a checkpoint in Hugging Face format.
    sparsity : float
        Least share of the block layers' weights to drop, 0 to 1.
    calibration_text : path
        UTF-8 file to take the calibration samples from.
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
    progress : callable, optional
        Told about each step.

    Raises
    ------
    FlexCiMError
        If the checkpoint, a text or an option cannot be used; the message is one sentence.
    """
    calibration = read_text(calibration_text)
    evaluation = None if evaluation_text is None else read_text(evaluation_text)
    steps = _Steps(progress)
    steps.begin("loading the model")
    checkpoint = load_checkpoint(model_path)
    model = checkpoint.model
    blocks = find_blocks(model)
    check_target([_shapes(block) for block in blocks], sparsity, config.patterns)
    length = _window(checkpoint, length)
    windows = draw_samples(_tokens(calibration, checkpoint), samples, length, seed)
    evaluations: dict[str, Evaluation] = {}

    def measure(name: str) -> None:
        if evaluation is not None:
            steps.begin(f"evaluating the {name} model")
            evaluations[name] = evaluate(model, _tokens(evaluation, checkpoint), len(evaluation.encode()), length)

    steps.total = 2 + len(blocks) + (0 if evaluation is None else 3)
    measure("dense")
    steps.begin("looking for outliers")
    stream = BlockStream(model, blocks, windows)
    prunable = [block for block in blocks if block.layers]
    selection = select([_facts(block, stream.dense) for block in prunable], sparsity, config.patterns)
    choices = dict(zip(prunable, selection.choices, strict=True))
    tilings = {
        layer.name: tile_layer(config, *layer.shape, choice.pattern)
        for block, choice in choices.items()
        for layer in block.layers
    }
    largest: dict[str, float] = {}
    for index, block in enumerate(blocks):
        steps.begin(f"pruning block {index + 1} of {len(blocks)}")
        if block in choices:
            _prune_block(block, choices[block].pattern, stream.measure())
        largest |= {name: seen.largest for name, seen in stream.advance().items()}
    measure("pruned")
    layers = tuple(
        _pruned_layer(layer, block, choice, tilings[layer.name], largest[layer.name], activations)
        for block, choice in choices.items()
        for layer in block.layers
    )
    with replaced(model, {layer.name: layer.quantized() for layer in layers}):
        measure("quantized")
    return PruneResult(
        checkpoint=checkpoint,
        config=config,
        target=sparsity,
        seed=seed,
        samples=windows,
        selection=selection,
        layers=layers,
        evaluations=Evaluations(**evaluations) if evaluations else None,
    )


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


def _tokens(text: str, checkpoint: Checkpoint) -> Tensor:
    """Tokens of a text; PruneError if the model does not know one of them."""
    tokens = tokenize(text, checkpoint.tokenizer)
    known = checkpoint.model.get_input_embeddings().num_embeddings
    largest = int(tokens.max()) if len(tokens) else 0
    if largest >= known:
        raise PruneError(f"the tokenizer of {checkpoint.name} gives token {largest}, but the model has only {known}")
    return tokens


def _shapes(block: Block) -> tuple[tuple[int, int], ...]:
    return tuple(layer.shape for layer in block.layers)


def _facts(block: Block, seen: Mapping[str, InputStatistics]) -> BlockFacts:
    """What the selection asks about a block, from its scores in the dense model."""
    found = find_outliers([wanda_scores(layer.weight, seen[layer.name].norms) for layer in block.layers])
    return BlockFacts(found.share, found.locality, _shapes(block))


def _prune_block(block: Block, pattern: Pattern, seen: Mapping[str, InputStatistics]) -> None:
    """Set the weights that the pattern drops to zero, in place."""
    for layer in block.layers:
        mask = nm_mask(wanda_scores(layer.weight, seen[layer.name].norms), pattern)
        layer.weight.masked_fill_(~mask, 0.0)


def _pruned_layer(
    layer: LinearLayer,
    block: Block,
    choice: Choice,
    tiling: LayerTiling,
    largest: float,
    activations: ActivationScale,
) -> PrunedLayer:
    """The layer's record, quantised; ``largest`` is the largest magnitude of its inputs."""
    weights, scales = quantize_weights(layer.weight, tiling.config.weight_bits)
    per_tensor = activations is ActivationScale.TENSOR
    return PrunedLayer(
        name=layer.name,
        block=block.name,
        choice=choice,
        tiling=tiling,
        zeros=int((layer.weight == 0).sum()),
        weights=weights,
        scales=scales,
        activation_scale=activation_scale(largest, tiling.config.activation_bits) if per_tensor else None,
        bias=layer.bias,
    )
