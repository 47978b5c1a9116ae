"""What happens to a layer's weights under a pattern: a mask by a score, and an update of what is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flexcim.pattern import Pattern
from flow.blocks import Block
from flow.masks import nm_mask
from flow.options import Method, Score, Update
from flow.scores import magnitude_scores, obs_scores, ria_scores, wanda_scores
from flow.selectors import Choice
from flow.statistics import InputStatistics
from flow.updates import Curvature, damped, least_squares, obs_sweep

__all__ = ["Treated", "Treatment", "default_treatment", "prune_block"]


@dataclass(frozen=True)
class Treated:
    """A layer's weights under some patterns.

    Parameters
    ----------
    weights : Tensor
        [patterns, outputs, inputs], in the dtype of the layer's weights.
    damping : float or None
        Share of the mean diagonal that the second moments had to be damped by; None where none were used.
    """

    weights: Tensor
    damping: float | None


@dataclass(frozen=True)
class Treatment:
    """How a layer is pruned once its pattern is known.

    Parameters
    ----------
    score : Score
        What the mask is chosen by. With `Score.OBS` and an update, the masks are those of SparseGPT's sweep, which sees
        what earlier weights of an output have left to later ones; without an update the score is that of each weight
        alone.
    update : Update
        What happens to the kept weights.
    """

    score: Score
    update: Update

    @property
    def needs_moments(self) -> bool:
        """Whether the statistics must have second moments."""
        return self.update is not Update.NONE or self.score is Score.OBS

    def __str__(self) -> str:
        return f"{self.score.value} masks, " + (
            "no update" if self.update is Update.NONE else f"{self.update.value} update"
        )

    def apply(self, weight: Tensor, seen: InputStatistics, patterns: Sequence[Pattern]) -> Treated:
        """Prune a layer's weights by each of several patterns, which share all that does not depend on the pattern.

        Parameters
        ----------
        weight : Tensor
            Dense weights, [outputs, inputs].
        seen : InputStatistics
            What was seen of the layer's inputs.
        patterns : sequence of Pattern
            The patterns.
        """
        curvature = damped(seen.moments.to(weight.device)) if self.needs_moments else None
        treated = torch.stack([weight] * len(patterns))
        sparse = [index for index, pattern in enumerate(patterns) if not pattern.is_dense]
        if sparse:
            pruned = self._prune(weight, seen, curvature, [patterns[index] for index in sparse])
            treated[sparse] = pruned.to(weight.dtype)
        return Treated(treated, None if curvature is None else curvature.damping)

    def _prune(
        self, weight: Tensor, seen: InputStatistics, curvature: Curvature | None, patterns: list[Pattern]
    ) -> Tensor:
        if self.update is Update.NONE or self.score is not Score.OBS:
            scores = self._scores(weight, seen, curvature)
            masks = torch.stack([nm_mask(scores, pattern) for pattern in patterns])
            if curvature is None or self.update is Update.NONE:
                return weight * masks
            if self.update is Update.OBS:
                return obs_sweep(weight, curvature, patterns, list(masks))[0]
        else:
            assert curvature is not None, "OBS masks need second moments"
            swept, masks = obs_sweep(weight, curvature, patterns)
            if self.update is Update.OBS:
                return swept
        return torch.stack([least_squares(weight, curvature, mask) for mask in masks])

    def _scores(self, weight: Tensor, seen: InputStatistics, curvature: Curvature | None) -> Tensor:
        norms = seen.norms.to(weight.device)
        if self.score is Score.MAGNITUDE:
            return magnitude_scores(weight)
        if self.score is Score.WANDA:
            return wanda_scores(weight, norms)
        if self.score is Score.RIA:
            return ria_scores(weight, norms)
        assert curvature is not None, "OBS scores need second moments"
        return obs_scores(weight, curvature.inverse_diagonal)


def default_treatment(method: Method, score: Score | None = None, update: Update | None = None) -> Treatment:
    """The treatment that goes with a method: OBS masks and least squares for FLOW, as published for the others.

    Parameters
    ----------
    method : Method
        Who chooses the patterns.
    score, update : optional
        What was asked for instead.
    """
    if method is Method.FLOW:
        return Treatment(score or Score.OBS, update or Update.LSQ)
    return Treatment(score or Score.WANDA, update or Update.NONE)


def prune_block(
    block: Block, choices: Mapping[str, Choice], treatment: Treatment, seen: Mapping[str, InputStatistics]
) -> dict[str, float | None]:
    """Prune the layers of a block in place.

    Parameters
    ----------
    block : Block
        The block.
    choices : mapping
        The choice for each layer, by its name.
    treatment : Treatment
        How they are pruned.
    seen : mapping
        Statistics of their inputs, by name.

    Returns
    -------
    dict
        The damping of each layer's second moments, by name.
    """
    damping = {}
    for layer in block.layers:
        treated = treatment.apply(layer.weight, seen[layer.name], [choices[layer.name].pattern])
        layer.weight.copy_(treated.weights[0])
        damping[layer.name] = treated.damping
    return damping
