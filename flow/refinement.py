"""Refinement: assignments are tried on the whole model, what patterns cost is measured there, and better ones are
sought.

Costs that are measured one layer at a time mislead where much is pruned, as errors add up on their way through the
model. So the errors' interactions are taken into account, and how far the whole pruned model is from the dense one
decides: on calibration text that no statistics were taken from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from flow.blocks import LinearLayer
from flow.costs import LossModel, loss_model
from flow.divergence import Reference, divergence
from flow.options import BATCH_TOKENS
from flow.selectors import Problem

__all__ = ["Bench", "descend", "sequence_loss"]


def sequence_loss(model: PreTrainedModel, samples: Tensor) -> float:
    """Mean negative log-likelihood of the samples' tokens but the first of each, nats per token."""
    nats, tokens = 0.0, 0
    with torch.no_grad():
        for batch in samples.split(max(1, BATCH_TOKENS // samples.shape[1])):
            logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()
            nats += cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum").item()
            tokens += batch[:, 1:].numel()
    return nats / tokens


@dataclass(eq=False)
class Bench:
    """A model whose units can be put under any pattern and back, to see what the loss does.

    All layers' weights under all patterns are in memory, as many times the model's block weights as there are patterns.

    Parameters
    ----------
    model : PreTrainedModel
        The model, dense.
    units : sequence of sequences of LinearLayer
        The layers of each unit.
    treated : mapping
        Weights under each pattern by the layer's name, [patterns, outputs, inputs].
    guard : Reference
        What the dense model predicts on the samples that whole assignments are compared on.
    measured : Reference
        The same of the sequences that costs are measured on (flow.costs.sequences_of).
    """

    model: PreTrainedModel
    units: Sequence[Sequence[LinearLayer]]
    treated: Mapping[str, Tensor]
    guard: Reference
    measured: Reference
    _found: dict[tuple[int, ...], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._dense = {layer.name: layer.weight.clone() for unit in self.units for layer in unit}

    def restricted(self, columns: Sequence[int]) -> Bench:
        """The same for some of the patterns only; the model must be dense."""
        treated = {name: weights[list(columns)] for name, weights in self.treated.items()}
        return Bench(self.model, self.units, treated, self.guard, self.measured)

    def put(self, columns: NDArray[np.int64]) -> None:
        """Put each unit under the pattern of its column."""
        for unit, column in zip(self.units, columns, strict=True):
            for layer in unit:
                layer.weight.copy_(self.treated[layer.name][column])

    def restore(self) -> None:
        """Make the model dense again."""
        for unit in self.units:
            for layer in unit:
                layer.weight.copy_(self._dense[layer.name])

    def divergence(self, columns: NDArray[np.int64]) -> float:
        """Divergence from the dense model on the guard's samples under an assignment, nats per token."""
        key = tuple(int(column) for column in columns)
        if key not in self._found:
            self.put(columns)
            self._found[key] = divergence(self.model, self.guard)
        return self._found[key]

    def around_dense(self, seed: int) -> LossModel:
        """What the patterns cost in the dense model; the seed is that of the labels it draws."""
        self.restore()
        changes = {name: treated - self._dense[name] for name, treated in self.treated.items()}
        return loss_model(self.model, self.units, changes, self.measured.samples, seed)

    def around(self, columns: NDArray[np.int64], seed: int) -> LossModel:
        """What the patterns cost in the model under an assignment, whose own patterns cost nothing there."""
        self.put(columns)
        changes = {
            layer.name: self.treated[layer.name] - self.treated[layer.name][column]
            for unit, column in zip(self.units, columns, strict=True)
            for layer in unit
        }
        return loss_model(self.model, self.units, changes, self.measured.samples, seed, self.measured)


def descend(problem: Problem, around: LossModel, start: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Lower the expected loss, interactions and all, by changing one unit or two at a time.

    Each step takes the best change within the budget; two units at once let one give what the other gets. It ends where
    no such change helps, and never above the start.

    Parameters
    ----------
    problem : Problem
        The budget.
    around : LossModel
        What the patterns cost.
    start : int64 [units]
        Columns to begin with, within the budget.

    Returns
    -------
    list of int64 [units]
        The start, and the columns after each step.
    """
    columns = start.copy()
    path = [start]
    rows = np.arange(len(columns))
    own = around.costs
    tolerance = 1e-9 * max(np.abs(own).max(), 1e-30)
    while True:
        # What each change of one unit does beside the others as they are ...
        others = around.curvature[:, :, rows, columns]
        beside = own + 2 * (others.sum(axis=2) - others[rows, :, rows])
        one = beside - beside[rows, columns][:, None]
        more = problem.resources - problem.resources[rows, columns][:, None]
        # ... and what two do together, beyond the sum of both.
        mixed = around.curvature - others[:, :, :, None]
        mixed = mixed - mixed[rows, columns][:, None]
        two = one[:, :, None, None] + one + 2 * mixed
        left = problem.limit - problem.used(columns)
        two[more[:, :, None, None] + more > left] = np.inf
        two[rows, :, rows, :] = np.inf
        one[more > left] = np.inf
        if min(one.min(), two.min()) >= -tolerance:
            return path
        if one.min() <= two.min():
            row, column = np.unravel_index(one.argmin(), one.shape)
            columns[row] = column
        else:
            first, its, second, other = np.unravel_index(two.argmin(), two.shape)
            columns[first], columns[second] = its, other
        path.append(columns.copy())
