"""What happens to a layer's weights under a pattern: a mask by a score, and an update of what is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from flexcim.config.pattern import Pattern
from flexcim.errors import FlexCiMError
from flexcim_flow.common.options import Update
from flexcim_flow.layer.masks import nm_mask
from flexcim_flow.layer.rule import SCORES, Need, ScoreRule
from flexcim_flow.layer.scores import OBS
from flexcim_flow.layer.sweep import obs_sweep
from flexcim_flow.layer.updates import DIRECT_KEPT, TOLERANCE, Curvature, conjugate_gradients, damped, least_squares
from flexcim_flow.model.blocks import Block
from flexcim_flow.passes.statistics import InputStatistics, with_same_inputs

__all__ = ["Numerics", "ScoreError", "Treated", "Treatment", "prune_block", "treat_layers"]


class ScoreError(FlexCiMError):
    """Scores that no mask can be chosen by; the message is one sentence that names the score."""


@dataclass(frozen=True)
class Numerics:
    """How the numbers of a layer went.

    Parameters
    ----------
    damping : float or None
        Share of the mean diagonal that the second moments had to be damped by; None where none were used.
    residual : float or None
        Largest relative residual of its outputs' least squares, where they were solved by iteration.
    reached : bool
        Whether a calibration token reached the layer. One that none reached, an expert, is pruned by the magnitude of
        its weights, and not updated.
    """

    damping: float | None = None
    residual: float | None = None
    reached: bool = True


@dataclass(frozen=True)
class Treated:
    """A layer's weights under some patterns.

    Parameters
    ----------
    weights : Tensor
        [patterns, outputs, inputs], in the dtype of the layer's weights.
    numerics : Numerics
        How the numbers went.
    """

    weights: Tensor
    numerics: Numerics


@dataclass(frozen=True)
class Treatment:
    """How a layer is pruned once its pattern is known.

    Parameters
    ----------
    score : str
        What the mask is chosen by, a name in `flexcim_flow.layer.rule.SCORES`. With ``obs`` and an update, the masks
        are those of SparseGPT's sweep, which sees what earlier weights of an output have left to later ones; without an
        update the score is that of each weight alone.
    update : Update
        What happens to the kept weights.
    """

    score: str
    update: Update

    @cached_property
    def rule(self) -> ScoreRule:
        """How the score is computed, and what it needs.

        Raises
        ------
        FlexCiMError
            If no score has this name, or another package adds it and it cannot be used.
        """
        return SCORES[self.score]

    @property
    def needs_moments(self) -> bool:
        """Whether the statistics must have second moments."""
        return self.update is not Update.NONE or self.rule.needs_moments

    def __str__(self) -> str:
        return f"{self.score} masks, " + ("no update" if self.update is Update.NONE else f"{self.update.value} update")

    def apply(
        self, weight: Tensor, seen: InputStatistics, patterns: Sequence[Pattern], tolerance: float = TOLERANCE
    ) -> Treated:
        """Prune a layer's weights by each of several patterns, which share all that does not depend on the pattern.

        Parameters
        ----------
        weight : Tensor
            Dense weights, [outputs, inputs].
        seen : InputStatistics
            What was seen of the layer's inputs.
        patterns : sequence of Pattern
            The patterns.
        tolerance : float
            Relative residual at which least squares count as solved, where they are solved by iteration.
        """
        return self.apply_together([weight], seen, [patterns], tolerance)[0]

    def apply_together(
        self,
        weights: Sequence[Tensor],
        seen: InputStatistics,
        patterns: Sequence[Sequence[Pattern]],
        tolerance: float = TOLERANCE,
    ) -> list[Treated]:
        """The same for several layers that get the same inputs, each by patterns of its own; they share the
        factorisation of the second moments, and the steps of a sweep.

        Parameters
        ----------
        weights : sequence of Tensor
            Dense weights, [outputs, inputs] each.
        seen : InputStatistics
            What was seen of their inputs.
        patterns : sequence of sequences of Pattern
            The patterns of each.
        tolerance : float
            As in `apply`.
        """
        if not seen.tokens:
            unseen = Treatment("magnitude", Update.NONE)
            return unseen._treat(weights, seen, patterns, tolerance, Numerics(reached=False))
        return self._treat(weights, seen, patterns, tolerance, Numerics())

    def _treat(
        self,
        weights: Sequence[Tensor],
        seen: InputStatistics,
        patterns: Sequence[Sequence[Pattern]],
        tolerance: float,
        numerics: Numerics,
    ) -> list[Treated]:
        curvature = damped(seen.moments.to(weights[0].device)) if self.needs_moments else None
        if curvature is not None:
            numerics = replace(numerics, damping=curvature.damping)
        sparse = [[index for index, pattern in enumerate(own) if not pattern.is_dense] for own in patterns]
        pruning = [layer for layer, indices in enumerate(sparse) if indices]
        pruned = self._prune(
            [weights[layer] for layer in pruning],
            seen,
            curvature,
            [[patterns[layer][index] for index in sparse[layer]] for layer in pruning],
            tolerance,
        )
        treated = [
            Treated(torch.stack([weight] * len(own)), numerics) for weight, own in zip(weights, patterns, strict=True)
        ]
        for layer, (changed, residual) in zip(pruning, pruned, strict=True):
            treated[layer].weights[sparse[layer]] = changed.to(weights[layer].dtype)
            treated[layer] = replace(treated[layer], numerics=replace(numerics, residual=residual))
        return treated

    def _prune(
        self,
        weights: list[Tensor],
        seen: InputStatistics,
        curvature: Curvature | None,
        patterns: list[list[Pattern]],
        tolerance: float,
    ) -> Iterable[tuple[Tensor, float | None]]:
        """For each layer its weights under each of its sparse patterns, and the largest residual of those that were
        solved by iteration."""
        if not weights:
            return []
        swept: Sequence[Tensor | None] = [None] * len(weights)
        if self.update is Update.NONE or self.rule is not OBS:
            masks = [self._masks(weight, seen, curvature, own) for weight, own in zip(weights, patterns, strict=True)]
            if curvature is None or self.update is Update.NONE:
                return [(weight * mask, None) for weight, mask in zip(weights, masks, strict=True)]
            if self.update is Update.OBS or any(_iterated(mask).any() for mask in masks):
                swept, _ = obs_sweep(weights, curvature, patterns, masks)
        else:
            assert curvature is not None, "an update needs second moments"
            swept, masks = obs_sweep(weights, curvature, patterns)
        if self.update is Update.OBS:
            return [(one, None) for one in swept if one is not None]
        return [
            _least_squares(weight, curvature, mask, start, tolerance)
            for weight, mask, start in zip(weights, masks, swept, strict=True)
        ]

    def _masks(
        self, weight: Tensor, seen: InputStatistics, curvature: Curvature | None, patterns: Sequence[Pattern]
    ) -> Tensor:
        """The masks of a layer by its scores, [patterns, outputs, inputs], bool."""
        scores = self.rule.scores(weight, *(_given(need, seen, curvature, weight.device) for need in self.rule.needs))
        if scores.shape != weight.shape:
            shapes = f"{list(scores.shape)}, not {list(weight.shape)} as the weights"
            raise ScoreError(f"score {self.score} gives scores of shape {shapes}")
        try:
            return torch.stack([nm_mask(scores, pattern) for pattern in patterns])
        except ValueError as error:
            raise ScoreError(f"score {self.score}: {error}") from None


def _given(need: Need, seen: InputStatistics, curvature: Curvature | None, device: torch.device) -> Tensor:
    """What a score needs, on a device."""
    if need is Need.INPUT_NORMS:
        return seen.norms.to(device)
    assert curvature is not None, "the treatment says that it needs second moments"
    return curvature.matrix if need is Need.SECOND_MOMENTS else curvature.inverse_diagonal


def _iterated(masks: Tensor) -> Tensor:
    """Which patterns keep so much of an output that iteration is the faster way, [patterns], of their masks."""
    return masks[:, 0].sum(dim=1) > DIRECT_KEPT


def _least_squares(
    weight: Tensor, curvature: Curvature, masks: Tensor, swept: Tensor | None, tolerance: float
) -> tuple[Tensor, float | None]:
    """The best weights under each mask, by iteration from those of the sweep where it is faster."""
    iterated = _iterated(masks)
    if not iterated.any():
        return torch.stack([least_squares(weight, curvature, mask) for mask in masks]), None
    assert swept is not None, "iteration starts from the sweep"
    if iterated.all():  # as in wide layers, whose weights under all patterns had better not be copied
        return conjugate_gradients(weight, curvature, masks, swept, tolerance=tolerance)
    solved = torch.empty_like(swept)
    solved[iterated], residual = conjugate_gradients(
        weight, curvature, masks[iterated], swept[iterated], tolerance=tolerance
    )
    solved[~iterated] = torch.stack([least_squares(weight, curvature, mask) for mask in masks[~iterated]])
    return solved, residual


def treat_layers(
    treatment: Treatment,
    weights: Mapping[str, Tensor],
    seen: Mapping[str, InputStatistics],
    patterns: Mapping[str, Sequence[Pattern]],
    tolerance: float = TOLERANCE,
) -> dict[str, Treated]:
    """Prune the weights of layers by each of some patterns, together those of layers that get the same inputs.

    Parameters
    ----------
    treatment : Treatment
        How they are pruned.
    weights : mapping
        Dense weights by the layer's name, [outputs, inputs], all outputs or some.
    seen : mapping
        Statistics of the layers' inputs, by name.
    patterns : mapping
        The patterns of each, by name.
    tolerance : float
        As in `Treatment.apply`.

    Returns
    -------
    dict
        By the layer's name, in the order of the weights.
    """
    treated: dict[str, Treated] = {}
    for names in with_same_inputs(weights, seen):
        found = treatment.apply_together(
            [weights[name] for name in names], seen[names[0]], [patterns[name] for name in names], tolerance
        )
        treated |= zip(names, found, strict=True)
    return {name: treated[name] for name in weights}


def prune_block(
    block: Block, patterns: Mapping[str, Pattern], treatment: Treatment, seen: Mapping[str, InputStatistics]
) -> dict[str, Numerics]:
    """Prune the layers of a block in place.

    Parameters
    ----------
    block : Block
        The block.
    patterns : mapping
        The pattern of each layer, by its name.
    treatment : Treatment
        How they are pruned.
    seen : mapping
        Statistics of their inputs, by name.

    Returns
    -------
    dict
        How the numbers of each layer went, by name.
    """
    weights = {layer.name: layer.weight for layer in block.layers}
    treated = treat_layers(treatment, weights, seen, {name: [patterns[name]] for name in weights})
    for layer in block.layers:
        layer.weight.copy_(treated[layer.name].weights[0])
    return {name: of_layer.numerics for name, of_layer in treated.items()}
