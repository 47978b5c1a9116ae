"""The pipeline: a checkpoint and a text go in; a pruned model, its plan and its quantised layers come out."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from flexcim.config import PRESETS, MacroConfig
from flexcim.errors import FlexCiMError
from flexcim.tiling import LayerTiling, tile_layer
from flow.blocks import Block, LinearLayer, find_blocks
from flow.budgets import Budget, SparsityBudget, pose
from flow.calibration import BlockStream
from flow.checkpoint import Checkpoint, load_checkpoint
from flow.choosing import Evidence, choose, default_granularity
from flow.evaluation import Evaluation, evaluate
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
from flow.quantization import activation_scale, quantize_weights, replaced
from flow.quiet import quiet
from flow.result import Evaluations, PrunedLayer, PruneResult
from flow.selectors import Choice, candidates, units_of
from flow.text import draw_samples, read_text, set_apart, tokenize
from flow.treatment import default_treatment, prune_block

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
    seed: int = 0,
    activations: ActivationScale = ActivationScale.TOKEN,
    progress: Progress | None = None,
) -> PruneResult:
    """Prune a causal language model for one macro.

    The calibration samples pass the dense model; the method then chooses a pattern that the macro's menu has for each
    layer, or block. A second pass prunes block by block: a block is measured on the outputs of the pruned blocks before
    it, masked, its kept weights updated, and run again. Nothing is retrained. At last the layers are quantised.

    Parameters
    ----------
    model_path : path
        Local folder of a checkpoint in Hugging Face format.
    sparsity : float, optional
        Least share of the block layers' weights to drop, 0 to 1; short for a `SparsityBudget`.
    budget : Budget, optional
        What limits the choice; either this or ``sparsity``.
    calibration_text : path
        UTF-8 file to take the calibration samples from. `Method.FLOW` sets an eighth of it apart, to compare whole
        pruned models on.
    evaluation_text : path, optional
        UTF-8 file to measure bits per byte on.
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
    seed : int
        Seed of the samples' places, and of the labels that `Method.FLOW` draws.
    activations : ActivationScale
        Whether each token gets its own scale or each layer one from the calibration.
    progress : callable, optional
        Told about each step.

    Raises
    ------
    FlexCiMError
        If the checkpoint, a text or an option cannot be used; the message is one sentence.
    """
    budget = _one_budget(sparsity, budget)
    treatment = default_treatment(method, score, update)
    calibration = read_text(calibration_text)
    evaluation = None if evaluation_text is None else read_text(evaluation_text)
    steps = _Steps(progress)
    steps.begin("loading the model")
    checkpoint = load_checkpoint(model_path)
    model = checkpoint.model
    blocks = find_blocks(model)
    by_block = (granularity or default_granularity(method)) is Granularity.BLOCK
    units = units_of(
        [(block.name, [(layer.name, layer.shape) for layer in block.layers]) for block in blocks], by_block=by_block
    )
    # What the paper lacks could make a budget look reachable that it cannot keep.
    menu = candidates(config.patterns) if method is Method.PAPER else config.patterns
    problem = pose(units, menu, budget)
    length = _window(checkpoint, length)
    tokens = _tokens(calibration, checkpoint)
    guarded = method is Method.FLOW
    measured, apart = set_apart(tokens, length) if guarded else (tokens, tokens)
    windows = draw_samples(measured, samples, length, seed)
    evaluations: dict[str, Evaluation] = {}

    def measure(name: str) -> None:
        if evaluation is not None:
            steps.begin(f"evaluating the {name} model")
            evaluations[name] = evaluate(model, _tokens(evaluation, checkpoint), len(evaluation.encode()), length)

    steps.total = 3 + len(blocks) + (0 if evaluation is None else 3)
    measure("dense")
    steps.begin("measuring the dense model")
    stream = BlockStream(model, blocks, windows, moments=guarded and treatment.needs_moments)
    steps.begin("choosing the patterns")
    by_name = {layer.name: layer for block in blocks for layer in block.layers}
    evidence = Evidence(
        model=model,
        units=tuple(tuple(by_name[name] for name in unit.layers) for unit in units),
        dense=stream.dense,
        treatment=treatment,
        samples=windows,
        guard=draw_samples(apart, min(samples, GUARD_SAMPLES), length, seed) if guarded else windows[:0],
        seed=seed,
    )
    selection = choose(method, problem, evidence)
    stream.forget()
    choices = {
        name: choice for unit, choice in zip(units, selection.assignment.choices, strict=True) for name in unit.layers
    }
    tilings = {name: tile_layer(config, *layer.shape, choices[name].pattern) for name, layer in by_name.items()}
    largest: dict[str, float] = {}
    damping: dict[str, float | None] = {}
    for index, block in enumerate(blocks):
        steps.begin(f"pruning block {index + 1} of {len(blocks)}")
        if block.layers:
            damping |= prune_block(block, choices, treatment, stream.measure(moments=treatment.needs_moments))
        largest |= {name: seen.largest for name, seen in stream.advance().items()}
    measure("pruned")
    layers = tuple(
        _pruned_layer(layer, block, choices[layer.name], tilings[layer.name], largest[layer.name], activations)
        for block in blocks
        for layer in block.layers
    )
    with replaced(model, {layer.name: layer.quantized() for layer in layers}):
        measure("quantized")
    return PruneResult(
        checkpoint=checkpoint,
        config=config,
        budget=budget,
        method=method,
        treatment=treatment,
        damping=damping,
        seed=seed,
        samples=windows,
        selection=selection,
        layers=layers,
        evaluations=Evaluations(**evaluations) if evaluations else None,
    )


def _one_budget(sparsity: float | None, budget: Budget | None) -> Budget:
    if (sparsity is None) == (budget is None):
        raise PruneError("either a sparsity or a budget must be given, and not both")
    return SparsityBudget(sparsity) if sparsity is not None else budget  # type: ignore[return-value]


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
