"""What a selector is told of the model, what it answers, and how many of the samples its measurements take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from flexcim.config.pattern import Pattern
from flexcim_flow.choice.problem import Assignment, Choice, Problem, SelectionError
from flexcim_flow.common.options import DEFAULT_LENGTH, MEASURED_IMAGES, Search
from flexcim_flow.layer.treatment import Treatment
from flexcim_flow.model.blocks import Block, LinearLayer
from flexcim_flow.passes.statistics import InputStatistics

__all__ = ["DEFAULT_STEPS", "FEWEST_TOKENS", "Evidence", "Selection", "costed", "judged", "searched"]

DEFAULT_STEPS = 3
"""Most assignments that are sought in the pruned model."""

FEWEST_TOKENS = 16 * DEFAULT_LENGTH
"""What calibration samples of fewer tokens count as, half of the default: shares of less would be too few tokens to
tell patterns apart, 1024 for costs and 1536 for judgements."""

_TOKENS_FOR_AN_INPUT = 8
"""Tokens for each input of the widest layer that second moments are taken from while patterns are compared."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """What a choice is based on.

    Parameters
    ----------
    model : PreTrainedModel
        The dense model; it is dense again when a choice has been made.
    units : tuple of tuples of LinearLayer
        The layers of each unit of the problem.
    dense : mapping
        Statistics of the layers' inputs in the dense model, by the layer's name, as the selector needs them; empty if
        it needs none.
    treatment : Treatment
        How the layers will be pruned: what a pattern costs depends on it.
    samples : Tensor
        Calibration samples, [samples, length], int64, or images [samples, channels, height, width], float32; what the
        loss feels is measured on the first few.
    guard : Tensor
        Samples of the same kind that were set apart, to compare whole models on; none unless the selector compares.
    mask : int, optional
        The token that stands in the samples where a masked language model is to predict.
    seed : int
        Seed of the labels that the model draws.
    steps : int
        Most assignments that are sought in the pruned model.
    blocks : tuple of Block
        The model's stack; needed where the model under every pattern does not fit in memory.
    once : callable, optional
        `Journal.once`, for what takes long to find; by default it is found each time.
    loaded : callable, optional
        Gives a context in which the weights of a layer's block are in memory; by default they always are.
    """

    model: PreTrainedModel
    units: tuple[tuple[LinearLayer, ...], ...]
    dense: Mapping[str, InputStatistics]
    treatment: Treatment
    samples: Tensor
    guard: Tensor
    mask: int | None = None
    seed: int = 0
    steps: int = DEFAULT_STEPS
    blocks: tuple[Block, ...] = ()
    once: Callable[[str, Callable[[], Any]], Any] = lambda name, find: find()
    loaded: Callable[[LinearLayer], AbstractContextManager[None]] = lambda layer: nullcontext()

    @property
    def judged(self) -> Tensor:
        """The first few of the guard, which whole assignments are compared on."""
        return judged(self.samples, self.guard)

    @contextmanager
    def holding(self, units: Iterable[Iterable[LinearLayer]]) -> Iterator[None]:
        """Have the weights of some units in memory for as long as the context is open."""
        with ExitStack() as stack:
            for unit in units:
                for layer in unit:
                    stack.enter_context(self.loaded(layer))
            yield


@dataclass(frozen=True)
class Selection:
    """The patterns of all units, and how they were found.

    Parameters
    ----------
    assignment : Assignment
        The choice for each unit.
    trials : dict
        Divergence from the dense model on the guard's samples under each assignment that was tried, nats per
        prediction, by its name; empty for methods that try nothing.
    search : Search, optional
        How the measured method measured; None for the others.
    """

    assignment: Assignment
    trials: dict[str, float] = field(default_factory=dict)
    search: Search | None = None

    def to_mapping(self) -> dict[str, Any]:
        """The selection as JSON's plain values."""
        choices = [[str(choice.pattern), choice.cost, choice.reason] for choice in self.assignment.choices]
        return {
            "method": self.assignment.method,
            "choices": choices,
            "used": self.assignment.used,
            "trials": self.trials,
            "search": self.search and self.search.value,
        }

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Selection:
        """The selection that `to_mapping` was asked for."""
        choices = tuple(Choice(Pattern.parse(pattern), cost, reason) for pattern, cost, reason in values["choices"])
        search = values["search"] and Search(values["search"])
        return cls(Assignment(values["method"], choices, values["used"]), values["trials"], search)

    def check(self, method: str, problem: Problem) -> None:
        """Make sure that a selector, which may be another package's, has answered its problem.

        Parameters
        ----------
        method : str
            The selector's name.
        problem : Problem
            What it was asked.

        Raises
        ------
        SelectionError
            If it has not a choice for each unit, or one that the menu has not, or they take more than the budget.
        """
        patterns = self.assignment.patterns
        if len(patterns) != len(problem.units):
            raise SelectionError(
                f"method {method} makes {len(patterns)} choices for {len(problem.units)} layers or blocks"
            )
        for unit, pattern in zip(problem.units, patterns, strict=True):
            if pattern not in problem.patterns:
                menu = " ".join(map(str, problem.patterns))
                raise SelectionError(f"method {method} chooses {pattern} for {unit.name}, but its menu is {menu}")
        used = problem.used([problem.patterns.index(pattern) for pattern in patterns])
        if used > problem.limit:
            raise SelectionError(f"method {method} takes {used} of the budget, which allows {problem.limit}")


# -- how much of the calibration each measurement takes ----------------------------------------------------------------

# They are shares, so that more samples make a better search, too, which takes its share of the time.


def searched(samples: Tensor, units: Sequence[Sequence[LinearLayer]]) -> Tensor:
    """The first of some samples, [samples, length], whose statistics are enough to choose by, if not to prune by.

    Of images, [samples, channels, height, width], all: only the model knows how many tokens it makes of one, and to
    prune takes a pass of them all anyway.
    """
    if samples.ndim != 2:
        return samples
    widest = max(layer.shape[1] for unit in units for layer in unit)
    return _first(samples, _TOKENS_FOR_AN_INPUT * widest)


def costed(samples: Tensor) -> Tensor:
    """The first of some samples, [samples, length] or images, that costs are measured on: an eighth of the tokens.

    They are whole samples, as a model may do something else at later places of a text.
    """
    return _first(samples, max(FEWEST_TOKENS, samples.numel()) // 8)


def judged(samples: Tensor, guard: Tensor) -> Tensor:
    """The first of the samples that were set apart, [samples, length] or images, that whole assignments are compared
    on: as many tokens as three sixteenths of the calibration samples, if there are as many."""
    return _first(guard, 3 * max(FEWEST_TOKENS, samples.numel()) // 16)


def _first(samples: Tensor, tokens: int) -> Tensor:
    """The first of some samples, [samples, length], with so many tokens, if there are as many.

    Of images, [samples, channels, height, width], the first `flexcim_flow.common.options.MEASURED_IMAGES`.
    """
    if samples.ndim != 2:
        return samples[:MEASURED_IMAGES]
    return samples[: -(-tokens // samples.shape[1])]
