"""The pruner's part of the demonstration: a checkpoint becomes figures, and layers that are ready to be simulated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.macro.cycles import program_cycles
from flexcim.packed.folder import write_packed
from flexcim.packed.layer import PackedLayer
from flexcim.packed.tiling import tile_layer
from flexcim_sim.demo.report import LayerReport, ModelReport

if TYPE_CHECKING:
    from flexcim_flow.prune.result import PrunedLayer, PruneResult

__all__ = ["LayerSample", "PruneJob", "PruneOutcome", "choose_layers", "prune_model", "smallest_layer"]


@dataclass(frozen=True, kw_only=True)
class PruneJob:
    """What to prune, and how.

    Parameters
    ----------
    model : Path
        Folder of the checkpoint.
    calibration, heldout : Path
        Texts to calibrate and to evaluate on.
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
    """What is left of a pruned model when its job is done.

    Parameters
    ----------
    report : ModelReport
        Its figures.
    full : tuple of LayerSample
        Layers for the whole macro.
    small : LayerSample
        A layer for a small one.
    """

    report: ModelReport
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


def prune_model(job: PruneJob) -> PruneOutcome:
    """Prune a model, write it packed, and keep what the simulation needs.

    Raises
    ------
    FlexCiMError
        If the checkpoint, a text or an option cannot be used, or the packed model cannot be written.
    """
    # PyTorch takes seconds to import, and the other processes that import this module do not need it.
    import torch

    from flexcim.quiet import quiet
    from flexcim_flow.choice.budgets import SparsityBudget
    from flexcim_flow.common.options import Update
    from flexcim_flow.prune.packing import pack
    from flexcim_flow.prune.pruner import prune
    from flexcim_flow.prune.request import PruneRequest

    # The order in which floats are summed depends on the number of threads, and with it the last bits of the scores:
    # one thread gives the same masks on every machine, and leaves the other cores to the builds.
    torch.set_num_threads(1)
    request = PruneRequest(
        model=job.model,
        calibration=job.calibration,
        evaluation=job.heldout,
        config=job.config,
        budget=SparsityBudget(job.sparsity),
        method="paper",
        score="wanda",
        update=Update.NONE,
        seed=job.seed,
        device="cpu",
    )
    result = prune(request)
    packed = pack(result)
    write_packed(job.packed, packed)
    report = _model_report(result, job)
    full = [layer.name for layer in choose_layers(report.layers, job.layers)]
    small = smallest_layer(report.layers).name
    with quiet():
        activations = result.activations([*full, small], job.vectors)
    by_name = {layer.name: layer for layer in packed.layers}

    def sample(name: str) -> LayerSample:
        weights = result.layer(name).integers()[0].numpy()
        return LayerSample(packed=by_name[name], weights=weights, activations=activations[name])

    return PruneOutcome(report=report, full=tuple(map(sample, full)), small=sample(small))


def _model_report(result: PruneResult, job: PruneJob) -> ModelReport:
    evaluations = result.evaluations
    assert evaluations is not None, "a text to evaluate on was given"
    assert result.target is not None, "a sparsity was asked for"
    return ModelReport(
        name=result.checkpoint.name,
        sparsity_target=result.target,
        sparsity=result.sparsity,
        bpb_dense=evaluations.dense.bits_per_byte,
        bpb_pruned=evaluations.pruned.bits_per_byte,
        bpb_int8=evaluations.quantized.bits_per_byte,
        layers=tuple(_layer_report(layer, job) for layer in result.layers),
    )


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
