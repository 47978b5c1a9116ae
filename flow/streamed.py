"""FLOW's measurements with one block's weights in memory: what patterns cost, and how far whole assignments diverge.

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

from flexcim.pattern import Pattern
from flow.blocks import Block, LinearLayer
from flow.costs import label_drawer, projecting, sequences_of
from flow.divergence import Reference
from flow.statistics import InputStatistics
from flow.stream import BlockStream
from flow.treatment import Treatment

__all__ = ["BENCH_BYTES", "StreamedBench", "bench_bytes"]

BENCH_BYTES = 4 << 30
"""Most memory that a `Bench` may take. It does not depend on the machine, as the choice must not; half of a common
laptop's 8 GiB leaves room for the rest of the model and its activations."""


def bench_bytes(units: Sequence[Sequence[LinearLayer]], patterns: int, *, moments: bool) -> int:
    """Memory that a `Bench` takes: float32 weights under each pattern, as they were and as they are, and moments.

    The two `Reference`s, which do not grow with the model, are not counted.
    """
    shapes = [layer.shape for unit in units for layer in unit]
    weights = sum(outputs * inputs for outputs, inputs in shapes)
    return 4 * (weights * (patterns + 2) + moments * sum(inputs * inputs for _, inputs in shapes))


@dataclass(frozen=True, eq=False)
class StreamedBench:
    """A model that is put under patterns block by block.

    In memory are one block, its weights under each pattern and its second moments, the activations of a `BlockStream`
    for each assignment, and the dense model's `Reference` on the guard's samples; on disk, in the folder for temporary
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
        Samples that the moments and costs are measured on, [samples, length], int64.
    guard : Tensor
        Samples that the divergences are measured on, [samples, length], int64.
    """

    model: PreTrainedModel
    blocks: Sequence[Block]
    units: Sequence[Sequence[LinearLayer]]
    patterns: Sequence[Pattern]
    treatment: Treatment
    samples: Tensor
    guard: Tensor

    def derivatives(self, seed: int) -> tuple[Tensor, int]:
        """`flow.costs.directional_derivatives` along what each pattern changes in the dense model.

        Parameters
        ----------
        seed : int
            Seed of the labels that the model draws.
        """
        sequences = sequences_of(self.samples)
        stream = BlockStream(self.model, self.blocks, self.samples)
        predicted = sequences[:, 1:].numel()
        found: list[Tensor] = []
        with (
            stream.revisiting() as go,
            closing(BlockStream(self.model, self.blocks, sequences).backward(draw=label_drawer(seed))) as backward,
        ):
            for position, (block, batches) in zip(reversed(range(len(self.blocks))), backward, strict=True):
                if not block.layers:
                    continue
                go(position)
                treated = self._treated(block, stream.measure(moments=self.treatment.needs_moments))
                changes = {layer.name: treated.pop(layer.name) - layer.weight for layer in block.layers}
                with projecting(block.layers, changes) as take:
                    found.append(torch.cat([take(size) for size in batches]))
        # The stream goes back from the mean loss, the derivatives are those of each sequence's sum.
        return predicted * torch.cat(found[::-1], dim=1), sequences.shape[1] - 1

    def divergences(self, assignments: Mapping[str, NDArray[np.int64]]) -> dict[str, float]:
        """Divergence from the dense model on the guard's samples under each of some assignments, nats per token, in one
        pass for all and for the dense model.

        Parameters
        ----------
        assignments : mapping
            Columns, int64 [units], by a name.
        """
        dense = BlockStream(self.model, self.blocks, self.samples)
        guard = BlockStream(self.model, self.blocks, self.guard)
        pruned = {name: guard.fork() for name in assignments}
        unit_of = {layer.name: index for index, unit in enumerate(self.units) for layer in unit}
        for block in self.blocks:
            with block.loaded():
                treated = self._treated(block, dense.measure(moments=self.treatment.needs_moments))
                dense.skip()
                guard.skip()
                before = [layer.weight.clone() for layer in block.layers]
                for name, columns in assignments.items():
                    for layer in block.layers:
                        layer.weight.copy_(treated[layer.name][columns[unit_of[layer.name]]])
                    pruned[name].skip()
                for layer, weight in zip(block.layers, before, strict=True):
                    layer.weight.copy_(weight)
        reference = Reference.from_answers(self.guard, guard.answers())
        return {name: reference.mean_divergence(stream.answers()) for name, stream in pruned.items()}

    def _treated(self, block: Block, seen: Mapping[str, InputStatistics]) -> dict[str, Tensor]:
        """A block's weights under each pattern, [patterns, outputs, inputs] by the layer's name."""
        return {
            layer.name: self.treatment.apply(layer.weight, seen[layer.name], self.patterns).weights
            for layer in block.layers
        }
