"""The pruner's part of the demonstration: a checkpoint becomes figures, and layers that are ready to be simulated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.macro.cycles import program_cycles
from flexcim.packed.folder import write_packed
from flexcim.packed.layer import PackedLayer
from flexcim.packed.tiling import tile_layer
from flexcim_sim.demo.errors import DemoError
from flexcim_sim.demo.report import LayerReport, PruningReport

if TYPE_CHECKING:
    from flexcim_flow.model.checkpoint import Checkpoint
    from flexcim_flow.prune.request import PruneRequest
    from flexcim_flow.prune.result import PrunedLayer, PruneResult

__all__ = [
    "LayerSample",
    "PruneJob",
    "PruneOutcome",
    "choose_layers",
    "prune_as_published",
    "prune_by_default",
    "smallest_layer",
]

DEFAULT_LABEL = "FLOW (default)"
"""The project's own pruner with its defaults, as the tables call it."""

PUBLISHED_LABEL = "published method (arXiv 2504.14365)"
"""The published objective with its own masks and no weight update, as the tables call it."""


@dataclass(frozen=True, kw_only=True)
class PruneJob:
    """What to prune, and how.

    Parameters
    ----------
    model : Path
        Folder of the checkpoint.
    calibration, heldout : Path
        Texts to calibrate and to evaluate on.
    evaluated : int
        Characters of the held-out text to evaluate on, from its beginning.
    prompt : str
        What the models go on from.
    tokens : int
        How many tokens they write.
    packed : Path
        Folder to write the packed model to.
    config, dense : MacroConfig
        The macro to prune for, and the dense one to compare with.
    sparsity : float
        Least share of the weights to drop.
    seed : int
        Seed of the calibration samples.
    vectors : int
        Vectors that cycles are counted for, and activations kept of.
    layers : int
        How many layers to prepare for simulation.
    """

    model: Path
    calibration: Path
    heldout: Path
    evaluated: int
    prompt: str
    tokens: int
    packed: Path
    config: MacroConfig
    dense: MacroConfig
    sparsity: float
    seed: int
    vectors: int
    layers: int


@dataclass(frozen=True, kw_only=True)
class LayerSample:
    """A layer's integers, and some of those that enter it.

    Parameters
    ----------
    packed : PackedLayer
        The layer as the packed model has it.
    weights : int8 [outputs, inputs]
        Its pruned weights.
    activations : int8 [V, inputs]
        What it gets when the pruned, quantised model reads calibration text.
    """

    packed: PackedLayer
    weights: NDArray[np.int8]
    activations: NDArray[np.int8]


@dataclass(frozen=True, kw_only=True)
class PruneOutcome:
    """What is left of a model that was pruned by default when its job is done.

    Parameters
    ----------
    name : str
        Name of its folder.
    sparsity_target : float
        What was asked for.
    evaluated : int
        Bytes of held-out text that it was measured on.
    bpb_dense, text_dense
        As in `ModelReport`.
    report : PruningReport
        Its figures.
    layers : tuple of LayerReport
        All its pruned layers.
    full : tuple of LayerSample
        Layers for the whole macro.
    small : LayerSample
        A layer for a small one.
    """

    name: str
    sparsity_target: float
    evaluated: int
    bpb_dense: float
    text_dense: str
    report: PruningReport
    layers: tuple[LayerReport, ...]
    full: tuple[LayerSample, ...]
    small: LayerSample


def choose_layers(layers: Sequence[LayerReport], count: int) -> list[LayerReport]:
    """Choose layers that differ: in their patterns if possible, then in their shapes; of equals the largest."""

    def shape(layer: LayerReport) -> tuple[int, int]:
        return layer.outputs, layer.inputs

    chosen: list[LayerReport] = []
    rest = list(layers)
    while rest and len(chosen) < count:
        best = min(
            rest,
            key=lambda layer: (
                sum(layer.pattern == other.pattern for other in chosen),
                sum(shape(layer) == shape(other) for other in chosen),
                sum((layer.pattern, shape(layer)) == (other.pattern, shape(other)) for other in chosen),
                -layer.outputs * layer.inputs,
            ),
        )
        rest.remove(best)
        chosen.append(best)
    return chosen


def smallest_layer(layers: Sequence[LayerReport]) -> LayerReport:
    """The layer with the fewest weights, of equals the first sparse one."""
    return min(layers, key=lambda layer: (layer.outputs * layer.inputs, layer.m == 1))


def prune_by_default(job: PruneJob) -> PruneOutcome:
    """Prune a model by the pruner's defaults, write it packed, and keep what the simulation needs.

    Raises
    ------
    FlexCiMError
        If the checkpoint, a text or an option cannot be used, or the packed model cannot be written.
    """
    from flexcim.quiet import quiet
    from flexcim_flow.prune.packing import pack
    from flexcim_flow.prune.pruner import prune
    from flexcim_flow.samples.text import check_unseen, read_text

    _use_one_thread()
    check_unseen(read_text(job.calibration), _heldout(job))
    bpb_dense, text_dense = _measured_dense(job)
    result = prune(_request(job))
    packed = pack(result)
    write_packed(job.packed, packed)
    layers = tuple(_layer_report(layer, job) for layer in result.layers)
    full = [layer.name for layer in choose_layers(layers, job.layers)]
    small = smallest_layer(layers).name
    with quiet():
        activations = result.activations([*full, small], job.vectors)
    by_name = {layer.name: layer for layer in packed.layers}

    def sample(name: str) -> LayerSample:
        weights = result.layer(name).integers()[0].numpy()
        return LayerSample(packed=by_name[name], weights=weights, activations=activations[name])

    return PruneOutcome(
        name=result.checkpoint.name,
        sparsity_target=job.sparsity,
        evaluated=len(_heldout(job).encode()),
        bpb_dense=bpb_dense,
        text_dense=text_dense,
        report=_pruning_report(DEFAULT_LABEL, result, layers, job),
        layers=layers,
        full=tuple(map(sample, full)),
        small=sample(small),
    )


def prune_as_published(job: PruneJob) -> PruningReport:
    """Prune a model by the published method, to compare with.

    Raises
    ------
    FlexCiMError
        If the checkpoint, a text or an option cannot be used.
    """
    from flexcim_flow.common.options import Update
    from flexcim_flow.prune.pruner import prune

    _use_one_thread()
    _loaded(job, streamed=True)  # refuses a model before it is pruned
    result = prune(_request(job, method="paper", score="wanda", update=Update.NONE))
    layers = tuple(_layer_report(layer, job) for layer in result.layers)
    return _pruning_report(PUBLISHED_LABEL, result, layers, job)


def _use_one_thread() -> None:
    """Let this process compute with one thread.

    The order in which floats are summed depends on the number of threads, and with it the last bits of the scores: one
    thread gives the same masks on every machine, and leaves the other cores to the other jobs.
    """
    # PyTorch takes seconds to import, and the other processes that import this module do not need it.
    import torch

    torch.set_num_threads(1)


def _loaded(job: PruneJob, *, streamed: bool = False) -> Checkpoint:
    """The dense model, if it can be measured and write; with its blocks left on disk if it is streamed."""
    from flexcim_flow.model.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(job.model, streamed=streamed)
    if checkpoint.tokenizer is None or not checkpoint.model.can_generate():
        raise DemoError(
            f"{job.model}: does not predict the next token, so it can be neither measured nor shown writing"
        )
    return checkpoint


def _measured_dense(job: PruneJob) -> tuple[float, str]:
    """Bits per byte of the dense model, and what it writes; it is not in memory any longer then."""
    dense = _loaded(job)
    return _bits_per_byte(dense, job), _continuation(dense, job)


def _request(job: PruneJob, **way: Any) -> PruneRequest:
    """What the pruner is asked for, in its default way unless another one is named."""
    from flexcim_flow.choice.budgets import SparsityBudget
    from flexcim_flow.prune.request import PruneRequest

    return PruneRequest(
        model=job.model,
        calibration=job.calibration,
        config=job.config,
        budget=SparsityBudget(job.sparsity),
        seed=job.seed,
        device="cpu",
        **way,
    )


def _pruning_report(label: str, result: PruneResult, layers: Sequence[LayerReport], job: PruneJob) -> PruningReport:
    """Measure a pruned model and let it write, the latter in the macro's integers."""
    from flexcim_flow.prune.result import quantized

    bpb_pruned = _bits_per_byte(result.checkpoint, job)
    with quantized(result.layers):
        bpb_int8, text = _bits_per_byte(result.checkpoint, job), _continuation(result.checkpoint, job)
    return PruningReport(
        label=label,
        method=result.request.chooser,
        score=result.treatment.score,
        update=result.treatment.update.value,
        sparsity=result.sparsity,
        bpb_pruned=bpb_pruned,
        bpb_int8=bpb_int8,
        cycles_model=sum(layer.cycles_model for layer in layers),
        cycles_dense_model=sum(layer.cycles_dense_model for layer in layers),
        text=text,
    )


def _heldout(job: PruneJob) -> str:
    """The text that models are measured on."""
    from flexcim_flow.samples.text import read_text

    return read_text(job.heldout)[: job.evaluated]


def _bits_per_byte(checkpoint: Checkpoint, job: PruneJob) -> float:
    """How well a model, as it is now, predicts the held-out text."""
    from flexcim.quiet import quiet
    from flexcim_flow.measure.evaluation import evaluate
    from flexcim_flow.samples.windows import EvaluationText, window_of

    text = EvaluationText.of(_heldout(job), checkpoint, window_of(None, checkpoint), None)
    with quiet():
        return evaluate(checkpoint.model, text.tokens, text.size, text.length).bits_per_byte


def _continuation(checkpoint: Checkpoint, job: PruneJob) -> str:
    """The line that a model, as it is now, writes after the prompt, always by the most likely token."""
    import torch

    from flexcim.quiet import quiet

    assert checkpoint.tokenizer is not None, "models that read no text have been refused"
    ids = checkpoint.tokenizer(job.prompt, return_tensors="pt")["input_ids"]
    room = job.tokens if checkpoint.context is None else min(job.tokens, checkpoint.context - ids.numel())
    if not ids.numel() or room < 1:
        raise DemoError(f"{checkpoint.name}: the prompt {job.prompt!r} does not fit the model's context")
    with torch.no_grad(), quiet():
        written = checkpoint.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=room, do_sample=False, num_beams=1, pad_token_id=0
        )
    text = checkpoint.tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    # A model of bytes may write control characters, which neither a terminal nor a page should see.
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in " ".join(text.split()))


def _layer_report(layer: PrunedLayer, job: PruneJob) -> LayerReport:
    tiling = layer.tiling
    dense = tile_layer(job.dense, tiling.outputs, tiling.inputs, Pattern(1, 1), vectors=job.vectors)
    return LayerReport(
        name=layer.name,
        outputs=tiling.outputs,
        inputs=tiling.inputs,
        n=layer.pattern.n,
        m=layer.pattern.m,
        why=layer.choice.reason,
        groups=tiling.groups,
        tiles=len(tiling.tiles),
        sparsity=layer.sparsity,
        cycles_model=program_cycles(tiling.config, tiling.program(job.vectors)).cycles,
        cycles_dense_model=program_cycles(dense.config, dense.program(job.vectors)).cycles,
    )
