"""What nesting gives back: one model with two plans, and what each plan keeps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from flexcim.packed.model import PackedModel
from flexcim.packed.plans import NestedPlan
from flexcim_flow.measure.evaluation import Evaluation
from flexcim_flow.model.checkpoint import Checkpoint
from flexcim_flow.nest.layers import NestedLayer
from flexcim_flow.nest.request import NestRequest

__all__ = ["NestedResult"]

_PRUNED = 0.05
"""A model of which a larger share is zero was pruned before: of dense ones next to nothing is, and the mildest pattern
of the menu, 4:5, leaves a fifth zero, less only at remainders."""


@dataclass(frozen=True, eq=False, kw_only=True)
class NestedResult:
    """A model with two plans, and how it came about.

    Parameters
    ----------
    checkpoint : Checkpoint
        The model under its denser plan, and its tokenizer.
    request : NestRequest
        What was asked for.
    sparser : PackedModel
        The packed model that the base was taken from.
    samples : Tensor
        The calibration samples, [samples, length], int64.
    layers : tuple of NestedLayer
        All linear layers of the blocks, in the model's order.
    zeros : dict
        Zero weights of each layer under both plans, by name: denser, sparser.
    given_zeros : dict
        Zero weights of each layer in the model that was given, by name.
    changed : dict
        Weights of each layer that the denser plan has not as they were given, by name.
    residuals : dict
        Largest relative residual of each layer's least squares, by name; None where none were solved.
    evaluations : dict
        By name, such as ``denser_quantized``; empty without a text.
    """

    checkpoint: Checkpoint
    request: NestRequest
    sparser: PackedModel
    samples: Tensor
    layers: tuple[NestedLayer, ...]
    zeros: dict[str, tuple[int, int]]
    given_zeros: dict[str, int]
    changed: dict[str, int]
    residuals: dict[str, float | None]
    evaluations: dict[str, Evaluation]

    def sparsity(self, plan: NestedPlan) -> float:
        """Share of all the layers' weights that are zero under a plan, counted."""
        index = list(NestedPlan).index(plan)
        return self._share(zeros[index] for zeros in self.zeros.values())

    @property
    def given_sparsity(self) -> float:
        """Share of the layers' weights that were zero in the model that was given, counted."""
        return self._share(self.given_zeros.values())

    @property
    def changed_share(self) -> float:
        """Share of the layers' weights that the denser plan has not as they were given, counted."""
        return self._share(self.changed.values())

    @property
    def was_pruned(self) -> bool:
        """Whether the model was pruned before, so that its weights may have been meant to be the denser plan's."""
        return self.given_sparsity > _PRUNED

    def _share(self, counts: Iterable[int]) -> float:
        return sum(counts) / sum(layer.tiling.outputs * layer.tiling.inputs for layer in self.layers)
