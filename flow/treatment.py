"""What happens to a layer's weights under a pattern: a mask by a score, and an update of what is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flexcim.pattern import Pattern
from flow.blocks import Block
from flow.masks import nm_mask
from flow.options import Method, Score, Update
from flow.scores import magnitude_scores, obs_scores, ria_scores, wanda_scores
from flow.selectors import Choice
from flow.statistics import InputStatistics
from flow.updates import DIRECT_KEPT, TOLERANCE, Curvature, conjugate_gradients, damped, least_squares, obs_sweep

__all__ = ["Numerics", "Treated", "Treatment", "default_treatment", "prune_block"]


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
        if not seen.tokens:
            unseen = Treatment(Score.MAGNITUDE, Update.NONE)
            return unseen._treat(weight, seen, patterns, tolerance, Numerics(reached=False))
        return self._treat(weight, seen, patterns, tolerance, Numerics())

    def _treat(
        self,
        weight: Tensor,
        seen: InputStatistics,
        patterns: Sequence[Pattern],
        tolerance: float,
        numerics: Numerics,
    ) -> Treated:
        curvature = damped(seen.moments.to(weight.device)) if self.needs_moments else None
        if curvature is not None:
            numerics = replace(numerics, damping=curvature.damping)
        treated = torch.stack([weight] * len(patterns))
        sparse = [index for index, pattern in enumerate(patterns) if not pattern.is_dense]
        if sparse:
            pruned, residual = self._prune(weight, seen, curvature, [patterns[index] for index in sparse], tolerance)
            treated[sparse] = pruned.to(weight.dtype)
            numerics = replace(numerics, residual=residual)
        return Treated(treated, numerics)

    def _prune(
        self,
        weight: Tensor,
        seen: InputStatistics,
        curvature: Curvature | None,
        patterns: list[Pattern],
        tolerance: float,
    ) -> tuple[Tensor, float | None]:
        """Weights under each sparse pattern, and the largest residual of those that were solved by iteration."""
        if self.update is Update.NONE or self.score is not Score.OBS:
            scores = self._scores(weight, seen, curvature)
            masks = torch.stack([nm_mask(scores, pattern) for pattern in patterns])
            if curvature is None or self.update is Update.NONE:
                return weight * masks, None
            swept = None
            if self.update is Update.OBS or _iterated(masks).any():
                swept, _ = obs_sweep(weight, curvature, patterns, list(masks))
        else:
            assert curvature is not None, "OBS masks need second moments"
            swept, masks = obs_sweep(weight, curvature, patterns)
        if self.update is Update.OBS:
            assert swept is not None, "the sweep is the update"
            return swept, None
        return _least_squares(weight, curvature, masks, swept, tolerance)

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
) -> dict[str, Numerics]:
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
        How the numbers of each layer went, by name.
    """
    numerics = {}
    for layer in block.layers:
        treated = treatment.apply(layer.weight, seen[layer.name], [choices[layer.name].pattern])
        layer.weight.copy_(treated.weights[0])
        numerics[layer.name] = treated.numerics
    return numerics
