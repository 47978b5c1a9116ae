"""What a selector is, and all selectors by name. Nothing heavy is imported, for the command line's sake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flexcim.config.pattern import Pattern
from flexcim_flow.common.options import Granularity, Update
from flexcim_flow.common.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from flexcim_flow.choice.evidence import Evidence, Selection
    from flexcim_flow.choice.problem import Problem
    from flexcim_flow.model.blocks import LinearLayer

__all__ = ["DEFAULT_METHOD", "SELECTORS", "Observation", "Selector", "norms"]

DEFAULT_METHOD = "measured"
"""The method of whoever asks for none."""


@dataclass(frozen=True, eq=False)
class Observation:
    """What is observed of the layers' inputs in the dense model.

    Parameters
    ----------
    samples : Tensor
        The calibration samples that the dense model reads: all, or as many of the first ones as are enough.
    moments : bool
        Whether second moments are taken besides the norms, for which it takes far longer.
    """

    samples: Tensor
    moments: bool = False


def norms(problem: Problem, units: Sequence[Sequence[LinearLayer]], samples: Tensor) -> Observation:
    """What most selectors need: the norms of the layers' inputs over all samples."""
    return Observation(samples)


def _whole(menu: Sequence[Pattern]) -> Sequence[Pattern]:
    return menu


@dataclass(frozen=True, kw_only=True)
class Selector:
    """Who chooses a pattern for each layer or block, and how they are pruned unless somebody asks for something else.

    Parameters
    ----------
    choose : callable
        Takes a `Problem` and the `Evidence`, and gives a `Selection` within the budget. It leaves the model dense.
    needs : callable
        Takes the problem, the layers of each of its units and the calibration samples, and gives the `Observation`
        from which the evidence has statistics; None if it asks nothing of the model.
    menu : callable
        Takes the macro's patterns, and gives those that can be chosen.
    granularity : Granularity
        What gets a pattern of its own.
    score : str
        The score that masks are chosen by.
    update : Update
        What happens to the kept weights.
    compares : bool
        Whether it compares what whole models predict. Then a part of the calibration is set apart for that, the
        evidence's ``guard``, and models whose answers are no probabilities are refused.
    overshoot : str
        Why its patterns may drop more than the budget asks for; it ends the sentence that says so.
    """

    choose: Callable[[Problem, Evidence], Selection]
    needs: Callable[[Problem, Sequence[Sequence[LinearLayer]], Tensor], Observation | None] = norms
    menu: Callable[[Sequence[Pattern]], Sequence[Pattern]] = _whole
    granularity: Granularity = Granularity.LAYER
    score: str = "wanda"
    update: Update = Update.NONE
    compares: bool = False
    overshoot: str = "each layer or block has one of the menu's few patterns"


SELECTORS: Registry[Selector] = Registry(
    "method",
    Selector,
    "flexcim.selectors",
    {
        "measured": "flexcim_flow.choice.measured:MEASURED",
        "paper": "flexcim_flow.choice.paper:PAPER",
        "uniform": "flexcim_flow.choice.uniform:UNIFORM",
        "owl": "flexcim_flow.choice.owl:OWL",
    },
    renamed={"flow": "measured"},
)
"""All selectors, by the names of the methods that they stand for."""
