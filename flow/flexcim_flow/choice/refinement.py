"""Refinement: assignments are tried on the whole model, and better ones are sought from where it stands.

What one layer's pattern costs by itself misleads where much is pruned, as errors add up on their way through the model.
So the slope of the loss is measured in the pruned model, and how far that is from the dense one decides: on calibration
samples that no statistics were taken from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from flexcim_flow.choice.costs import LossModel, mean_gradients
from flexcim_flow.choice.divergence import Reference, divergence
from flexcim_flow.choice.knapsack import solve_knapsack
from flexcim_flow.choice.problem import Problem
from flexcim_flow.model.blocks import LinearLayer
from flexcim_flow.passes.predictions import batch_size

__all__ = ["Bench", "refine", "sequence_loss"]

_CAUTION = 4.0
"""Caution of the first step; on the shipped models less goes too far."""

_SLOPES = 2
"""Most slopes that are measured, each of which takes as long as three trials."""

_SOLUTIONS = 8
"""Most cautions that are asked for an assignment that was not tried yet: a solution takes milliseconds, a trial passes
of the model."""


def sequence_loss(model: PreTrainedModel, samples: Tensor) -> float:
    """Mean negative log-likelihood of the samples' tokens but the first of each, nats per token."""
    nats, tokens = 0.0, 0
    with torch.no_grad():
        for batch in samples.split(batch_size(samples)):
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
    """

    model: PreTrainedModel
    units: Sequence[Sequence[LinearLayer]]
    treated: Mapping[str, Tensor]
    guard: Reference
    _found: dict[tuple[int, ...], float] = field(default_factory=dict)
    _slopes: dict[tuple[int, ...], NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._dense = {layer.name: layer.weight.clone() for unit in self.units for layer in unit}

    def restricted(self, columns: Sequence[int]) -> Bench:
        """The same for some of the patterns only; the model must be dense."""
        treated = {name: weights[list(columns)] for name, weights in self.treated.items()}
        return Bench(self.model, self.units, treated, self.guard)

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
        """Divergence from the dense model on the guard's samples under an assignment, nats per prediction."""
        key = _key(columns)
        if key not in self._found:
            self.put(columns)
            self._found[key] = divergence(self.model, self.guard)
        return self._found[key]

    def slope(self, columns: NDArray[np.int64]) -> NDArray[np.float64]:
        """How fast that divergence grows along each unit's weights under each pattern, float64 [units, patterns].

        The divergence itself comes with it.
        """
        key = _key(columns)
        if key not in self._slopes:
            self.put(columns)
            layers = [layer for unit in self.units for layer in unit]
            gradients, self._found[key] = mean_gradients(self.model, layers, self.guard)
            along = {
                name: self.treated[name].float().flatten(1) @ gradient.flatten() for name, gradient in gradients.items()
            }
            by_unit = [sum(along[layer.name].double().cpu().numpy() for layer in unit) for unit in self.units]
            self._slopes[key] = np.stack(by_unit)
        return self._slopes[key]


def _key(columns: NDArray[np.int64]) -> tuple[int, ...]:
    """An assignment as plain numbers."""
    return tuple(int(column) for column in columns)


def refine(
    problem: Problem, bench: Bench, loss: LossModel, start: NDArray[np.int64], steps: int
) -> Iterator[NDArray[np.int64]]:
    """Look for assignments that diverge less, each the exact optimum of what the loss is expected to do around the best
    one so far.

    A step that brings it down is the next one's start, and the next one dares more; after one that does not, the same
    start is tried with more caution, as by Levenberg and Marquardt. When no more slopes are to be measured, what was
    expected around the last start still tells where to look.

    Parameters
    ----------
    problem : Problem
        The budget.
    bench : Bench
        The model under every pattern.
    loss : LossModel
        What the patterns do in the dense model.
    start : int64 [units]
        Columns to begin with, within the budget.
    steps : int
        Most steps.

    Yields
    ------
    int64 [units]
        The columns of each step, none twice.
    """
    best, caution = start, _CAUTION
    tried = {tuple(start): True}
    around = _Around(problem, loss)
    for _ in range(steps):
        if around.slopes == 0 or (around.columns is not best and around.slopes < _SLOPES):
            around.move(best, bench.slope(best))
        found = around.untried(tried, caution)
        if found is None:
            return
        columns, caution = found
        yield columns
        tried[tuple(columns)] = bench.divergence(columns) < bench.divergence(best)
        if tried[tuple(columns)]:
            best = columns
            caution /= 2
        else:
            caution *= 4


class _Around:
    """What the loss is expected to do around an assignment whose slope was measured."""

    def __init__(self, problem: Problem, loss: LossModel) -> None:
        self.slopes = 0
        self._problem = problem
        self._loss = loss

    def move(self, columns: NDArray[np.int64], slope: NDArray[np.float64]) -> None:
        """Go to another assignment, and its slope."""
        self.slopes += 1
        self.columns, self._slope = columns, slope

    def untried(self, tried: Mapping[tuple[int, ...], bool], caution: float) -> tuple[NDArray[np.int64], float] | None:
        """The optimum at the caution nearest to this one that leads somewhere else, and that caution; None if there is
        none near.

        Parameters
        ----------
        tried : mapping
            Whether each assignment that was tried was better than those before it; if so, more is dared.
        caution : float
            As in `LossModel.around`.
        """
        for _ in range(_SOLUTIONS):
            rise = self._loss.around(self.columns, self._slope, caution)
            columns = solve_knapsack(rise, self._problem.resources, self._problem.limit)
            better = tried.get(tuple(columns))
            if better is None:
                return columns, caution
            caution *= 0.5 if better else 2.0
        return None
