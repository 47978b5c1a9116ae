"""What a score is, and all scores by name. Nothing heavy is imported, for the command line's sake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from flexcim_flow.common.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SCORES", "Need", "ScoreRule"]


class Need(Enum):
    """What a score can be given besides the weights, all of it from the calibration."""

    INPUT_NORMS = "input norms"
    """L2 norm of each input feature over all tokens, [inputs], float32."""

    SECOND_MOMENTS = "second moments"
    """H, the mean of x x^T over all tokens, damped so that it can be inverted, [inputs, inputs], float32."""

    INVERSE_DIAGONAL = "inverse diagonal"
    """Diagonal of H^-1, [inputs], float32, positive."""


@dataclass(frozen=True)
class ScoreRule:
    """How important each weight of a layer is. The largest scores of each block of m inputs keep their weights.

    Parameters
    ----------
    scores : callable
        Takes the weights, [outputs, inputs], in any floating dtype, then a tensor for each need in their order, all on
        one device; gives the scores, [outputs, inputs], floating, without NaN.
    needs : tuple of Need
        What it needs besides the weights.

    Raises
    ------
    TypeError
        If something is needed that there is not.
    """

    scores: Callable[..., Tensor]
    needs: tuple[Need, ...] = ()

    def __post_init__(self) -> None:
        for need in self.needs:
            if not isinstance(need, Need):
                raise TypeError(f"a score can need {', '.join(map(str, Need))}, not {need!r}")

    @property
    def needs_moments(self) -> bool:
        """Whether the second moments of the inputs must be collected, which takes far longer than norms."""
        return not {Need.SECOND_MOMENTS, Need.INVERSE_DIAGONAL}.isdisjoint(self.needs)


SCORES: Registry[ScoreRule] = Registry(
    "score",
    ScoreRule,
    "flexcim.scores",
    {
        "magnitude": "flexcim_flow.layer.scores:MAGNITUDE",
        "wanda": "flexcim_flow.layer.scores:WANDA",
        "ria": "flexcim_flow.layer.scores:RIA",
        "obs": "flexcim_flow.layer.scores:OBS",
    },
)
"""All scores."""
