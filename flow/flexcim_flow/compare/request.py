"""What a comparison is asked for: one model, and the ways in which it is pruned."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

from flexcim.config.macro import PRESETS, MacroConfig
from flexcim.errors import FlexCiMError
from flexcim_flow.choice.budgets import SparsityBudget
from flexcim_flow.common.options import DEFAULT_VECTORS, Update
from flexcim_flow.common.setting import FILE, Setting
from flexcim_flow.prune.request import PruneRequest

__all__ = ["ComparisonError", "ComparisonRequest", "Way", "ways_of"]


class ComparisonError(FlexCiMError):
    """A comparison that cannot be made; the message is one sentence."""


@dataclass(frozen=True)
class Way:
    """A way to prune.

    Parameters
    ----------
    method : str
        Who chooses the patterns.
    score : str or None
        What masks are chosen by; None for the method's default.
    update : Update or None
        What happens to the kept weights; None for the method's default.
    sparsity : float
        Least share of the weights to drop.
    seed : int
        Seed of the calibration.
    """

    method: str
    score: str | None
    update: Update | None
    sparsity: float
    seed: int

    def __str__(self) -> str:
        parts = [self.method, self.score, self.update and self.update.value]
        return f"{' '.join(part for part in parts if part)} at {self.sparsity:g}, seed {self.seed}"


def ways_of(
    methods: Sequence[str],
    updates: Sequence[Update],
    score: str | None,
    sparsities: Sequence[float],
    seeds: Sequence[int],
) -> tuple[Way, ...]:
    """Every method with every update, or with its own if none is given, at every sparsity with every seed.

    Raises
    ------
    ComparisonError
        If there is none, or one is there twice.
    """
    ways = tuple(
        Way(method, score, update, sparsity, seed)
        for sparsity, method, update, seed in product(sparsities, methods, updates or (None,), seeds)
    )
    if not ways:
        raise ComparisonError("a comparison needs at least one method, one sparsity and one seed")
    for index, way in enumerate(ways):
        if way in ways[:index]:
            raise ComparisonError(f"{way} is asked for twice")
    return ways


@dataclass(frozen=True, kw_only=True)
class ComparisonRequest(Setting):
    """What a comparison is asked for.

    Parameters
    ----------
    model : path
        Local folder of a causal language model in Hugging Face format; the whole model must fit in memory.
    calibration, samples, length, stride, device
        As in `Setting`.
    evaluation : path
        UTF-8 file to measure the loss on.
    config : MacroConfig
        The macro whose menu is used and whose cycles are counted; it must have 1:1.
    ways : sequence of Way
        The ways.
    vectors : int
        Vectors that the cycles are counted for.
    questions : path, optional
        JSONL file of multiple-choice questions.

    Raises
    ------
    FlexCiMError
        If there is no text to evaluate on, or an option or a way means nothing.
    """

    config: MacroConfig = field(default=PRESETS["flexcim"], metadata={"fact": MacroConfig.to_mapping})
    ways: Sequence[Way] = field(metadata={"fact": lambda ways: [str(way) for way in ways]})
    vectors: int = DEFAULT_VECTORS
    questions: str | os.PathLike[str] | None = field(default=None, metadata=FILE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evaluation is None:
            raise ComparisonError("a comparison needs a text to evaluate on")
        if self.vectors < 1:
            raise ComparisonError(f"a comparison counts cycles for at least one vector, not {self.vectors}")
        for way in self.ways:
            self.of(way)  # a request of its own, which looks at its sparsity and seed

    def of(self, way: Way) -> PruneRequest:
        """What pruning in one way is asked for."""
        return PruneRequest(
            model=self.model,
            calibration=self.calibration,
            config=self.config,
            samples=self.samples,
            length=self.length,
            budget=SparsityBudget(way.sparsity),
            method=way.method,
            score=way.score,
            update=way.update,
            seed=way.seed,
            device=self.device,
        )
