"""The measurements with one block's weights in memory: what patterns cost, and how far whole assignments diverge.

A `Bench` holds a model under every pattern at once. What does not fit is measured here instead: costs on the way back
through the blocks, each of which is pruned by every pattern when its turn comes, and the divergences of all assignments
from the dense model in one pass through the dense and the pruned blocks. From the same samples both give the same
figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from flexcim.config.pattern import Pattern
from flexcim_flow.choice.costs import LossModel, label_drawer, layer_curvature, sensing
from flexcim_flow.choice.divergence import Reference
from flexcim_flow.choice.evidence import costed, searched
from flexcim_flow.common.seeds import seeded
from flexcim_flow.layer.treatment import Treatment, treat_layers
from flexcim_flow.model.blocks import Block, LinearLayer
from flexcim_flow.passes.predictions import Predictions
from flexcim_flow.passes.statistics import InputStatistics
from flexcim_flow.passes.stream import BlockStream

__all__ = [
    "BENCH_BYTES",
    "COST_OUTPUTS",
    "SEARCH_TOLERANCE",
    "StreamedBench",
    "bench_bytes",
    "middle_pattern",
]

BENCH_BYTES = 4 << 30
"""Most memory that a `Bench` may take. It does not depend on the machine, as the choice must not; half of a common
laptop's 8 GiB leaves room for the rest of the model and its activations."""

SEARCH_TOLERANCE = 0.03
"""Residual of the least squares (`flexcim_flow.layer.updates.TOLERANCE`) while patterns are compared: thirty times
looser is half the time, and tells them apart as well."""

COST_OUTPUTS = 512
"""Outputs of a layer, drawn at random, that its costs are measured on. Each output is pruned by itself, and the costs
of all patterns are sums over the same ones, so that a few hundred tell the patterns apart as all would."""


def bench_bytes(units: Sequence[Sequence[LinearLayer]], patterns: int) -> int:
    """Memory that a `Bench` takes: float32 weights under each pattern, as they were and as they are, and moments.

    The `Reference`, which does not grow with the model, is not counted.
    """
    shapes = [layer.shape for unit in units for layer in unit]
    weights = sum(outputs * inputs for outputs, inputs in shapes)
    return 4 * (weights * (patterns + 2) + sum(inputs * inputs for _, inputs in shapes))


def middle_pattern(patterns: Sequence[Pattern]) -> int:
    """Index of the pattern of median density, which a layer's loss is probed along."""
    return sorted(range(len(patterns)), key=lambda index: patterns[index].density)[len(patterns) // 2]


@dataclass(frozen=True, eq=False)
class StreamedBench:
    """A model that is put under patterns block by block.

    In memory are one block and its second moments; the weights of a part of its outputs (`COST_OUTPUTS`) under each
    pattern, or all of them under each that an assignment gives them; the activations of a `BlockStream` for each
    assignment, and the dense model's `Reference` on the guard's samples; on disk, in the folder for temporary
    files, the inputs of all blocks.

    Parameters
    ----------
    model : PreTrainedModel
        The model, dense; it is dense again after each call.
    blocks : sequence of Block
        Its stack.
    units : sequence of sequences of LinearLayer
        The layers of each unit, in the order of the blocks.
    patterns : sequence of Pattern
        The patterns that columns mean.
    treatment : Treatment
        How layers are pruned.
    samples : Tensor
        Calibration samples, [samples, length], int64, or images [samples, channels, height, width], float32: as many
        as it takes, moments and costs are measured on.
    guard : Tensor
        Samples of the same kind that the divergences are measured on.
    mask : int, optional
        The token that stands where the model is to predict, as in `Predictions`.
    """

    model: PreTrainedModel
    blocks: Sequence[Block]
    units: Sequence[Sequence[LinearLayer]]
    patterns: Sequence[Pattern]
    treatment: Treatment
    samples: Tensor
    guard: Tensor
    mask: int | None = None

    def loss_model(self, seed: int) -> LossModel:
        """What the patterns do to the loss of the dense model.

        Parameters
        ----------
        seed : int
            Seed of the labels that the model draws, and of the outputs that stand for all of a layer's.
        """
        generator = seeded(seed)
        few = costed(self.samples)
        predicted = Predictions.of(self.model, self.mask).count(few)
        middle = middle_pattern(self.patterns)
        stream = BlockStream(self.model, self.blocks, searched(self.samples, self.units))
        feeling = BlockStream(self.model, self.blocks, few, mask=self.mask)
        found: dict[str, NDArray[np.float64]] = {}
        with (
            stream.revisiting() as go,
            closing(feeling.backward(draw=label_drawer(seed))) as backward,
        ):
            for position, (block, batches) in zip(reversed(range(len(self.blocks))), backward, strict=True):
                if not block.layers:
                    continue
                go(position)
                seen = stream.measure(moments=True)
                some = {layer.name: _some_outputs(layer, generator) for layer in block.layers}
                weights = {layer.name: layer.weight[some[layer.name]] for layer in block.layers}
                treated = self._treated(weights, seen, dict.fromkeys(weights, self.patterns))
                changes = {name: treated.pop(name) - weight for name, weight in weights.items()}
                probes = {name: change[middle] for name, change in changes.items()}
                with sensing(block.layers, probes, some) as felt:
                    for _ in batches:
                        pass
                for name, change in changes.items():
                    # The stream goes back from the mean loss, whose gradients are smaller by the number of predictions.
                    felt[name].scale(predicted)
                    found[name] = layer_curvature(change, seen[name], felt[name], predicted)
        return LossModel(np.stack([sum(found[layer.name] for layer in unit) for unit in self.units]))

    def divergences(self, assignments: Mapping[str, NDArray[np.int64]]) -> dict[str, float]:
        """Divergence from the dense model on the guard's samples under each of some assignments, nats per prediction,
        in one pass for all and for the dense model.

        Parameters
        ----------
        assignments : mapping
            Columns, int64 [units], by a name.
        """
        dense = BlockStream(self.model, self.blocks, searched(self.samples, self.units))
        guard = BlockStream(self.model, self.blocks, self.guard)
        pruned = {name: guard.fork() for name in assignments}
        unit_of = {layer.name: index for index, unit in enumerate(self.units) for layer in unit}
        for block in self.blocks:
            with block.loaded():
                before = {layer.name: layer.weight.clone() for layer in block.layers}
                wanted = {name: [columns[unit_of[name]] for columns in assignments.values()] for name in before}
                columns_of = {name: sorted(set(columns)) for name, columns in wanted.items()}
                patterns = {name: [self.patterns[column] for column in own] for name, own in columns_of.items()}
                treated = self._treated(before, dense.measure(moments=self.treatment.needs_moments), patterns)
                dense.skip()
                guard.skip()
                for number, stream in enumerate(pruned.values()):
                    for layer in block.layers:
                        own = columns_of[layer.name]
                        layer.weight.copy_(treated[layer.name][own.index(wanted[layer.name][number])])
                    stream.skip()
                for layer in block.layers:
                    layer.weight.copy_(before[layer.name])
        reference = Reference.from_answers(self.guard, Predictions.of(self.model, self.mask), guard.answers())
        return {name: reference.mean_divergence(stream.answers()) for name, stream in pruned.items()}

    def _treated(
        self,
        weights: Mapping[str, Tensor],
        seen: Mapping[str, InputStatistics],
        patterns: Mapping[str, Sequence[Pattern]],
    ) -> dict[str, Tensor]:
        """Some weights under some patterns, [patterns, outputs, inputs] by the layer's name."""
        treated = treat_layers(self.treatment, weights, seen, patterns, SEARCH_TOLERANCE)
        return {name: of_layer.weights for name, of_layer in treated.items()}


def _some_outputs(layer: LinearLayer, generator: torch.Generator) -> Tensor:
    """Outputs that stand for all of a layer's, in their order, int64: all of them if there are few."""
    drawn = torch.randperm(layer.shape[0], generator=generator)[:COST_OUTPUTS]
    return drawn.sort().values.to(layer.weight.device)
