"""Choosing: from a method's name and the dense model's statistics to a pattern for each unit.

``paper``, ``uniform`` and ``owl`` ask the statistics only. ``flow`` prunes every layer under every pattern, measures
what that does to the loss, solves the knapsack, refines its answer in the pruned model, and keeps whatever stays
nearest to the dense model's predictions, the simpler methods' answers included. Where the model under every pattern
does not fit in memory, the same is measured block by block, but nothing is refined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from flexcim.config.pattern import Pattern
from flexcim_flow.choice.costs import LossModel, loss_model, sensitivities
from flexcim_flow.choice.divergence import Reference
from flexcim_flow.choice.measured import explained, select_cheapest
from flexcim_flow.choice.outliers import find_outliers
from flexcim_flow.choice.owl import select_owl
from flexcim_flow.choice.paper import CANDIDATES, UnitFacts, select_paper
from flexcim_flow.choice.problem import Assignment, Choice, Problem
from flexcim_flow.choice.refinement import Bench, refine
from flexcim_flow.choice.streamed import (
    BENCH_BYTES,
    SEARCH_TOLERANCE,
    StreamedBench,
    bench_bytes,
    costed,
    first_tokens,
    middle_pattern,
)
from flexcim_flow.choice.uniform import select_uniform, uniform_mixes
from flexcim_flow.common.options import Granularity, Method, Search
from flexcim_flow.layer.scores import wanda_scores
from flexcim_flow.layer.treatment import Treatment, treat_layers
from flexcim_flow.model.blocks import Block, LinearLayer
from flexcim_flow.passes.statistics import InputStatistics

__all__ = [
    "DEFAULT_STEPS",
    "Evidence",
    "Selection",
    "choose",
    "default_granularity",
    "fits_in_memory",
    "measure_costs",
    "rivals_of",
    "search",
    "search_streamed",
    "set_up",
    "undominated",
]

DEFAULT_STEPS = 3
"""Most assignments that are sought in the pruned model."""

JUDGED_TOKENS = 1536
"""Fewest tokens of the text set apart that whole assignments are compared on, if there are as many; otherwise it is
three sixteenths of the calibration samples. So more samples make a better search, too, which takes its share of the
time. Of images there are `flexcim_flow.common.options.MEASURED_IMAGES`."""


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
        Statistics of the layers' inputs in the dense model, by the layer's name; ``measured`` wants second moments if
        the model under every pattern fits in memory.
    treatment : Treatment
        How the layers will be pruned: what a pattern costs depends on it.
    samples : Tensor
        Calibration samples, [samples, length], int64, or images [samples, channels, height, width], float32; what the
        loss feels is measured on the first few.
    guard : Tensor
        Samples of the same kind, the first few of which whole assignments are compared on.
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
        """What whole assignments are compared on."""
        return first_tokens(self.guard, max(JUDGED_TOKENS, 3 * self.samples.numel() // 16))

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
        How `Method.MEASURED` measured; None for the others.
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


def default_granularity(method: Method) -> Granularity:
    """What gets a pattern of its own: a block as the paper has it, else a layer, which is the better choice."""
    return Granularity.BLOCK if method is Method.PAPER else Granularity.LAYER


def choose(method: Method, problem: Problem, evidence: Evidence) -> Selection:
    """Choose a pattern for each unit.

    Parameters
    ----------
    method : Method
        Who chooses.
    problem : Problem
        The budget; its units are those of the evidence.
    evidence : Evidence
        What is known of the model.

    Raises
    ------
    SelectionError
        If the menu has not what the method needs.
    """
    if method is Method.UNIFORM:
        return Selection(select_uniform(problem))
    if method is Method.PAPER:
        return Selection(select_paper(problem, _facts(evidence)))
    if method is Method.OWL:
        return Selection(select_owl(problem, [facts.outlier_share for facts in _facts(evidence)]))
    return _choose_measured(problem, evidence)


def _facts(evidence: Evidence) -> list[UnitFacts]:
    """Outliers of each unit by its scores in the dense model."""
    facts = []
    for unit in evidence.units:
        with evidence.holding([unit]):
            found = find_outliers([wanda_scores(layer.weight, evidence.dense[layer.name].norms) for layer in unit])
        facts.append(UnitFacts(found.share, found.locality))
    return facts


def _choose_measured(problem: Problem, evidence: Evidence) -> Selection:
    narrow = problem.restricted(undominated(problem))
    rivals = rivals_of(problem, evidence)
    if not fits_in_memory(problem, evidence.units):
        return search_streamed(narrow, evidence, rivals)
    with evidence.holding(evidence.units):
        bench = set_up(narrow.patterns, evidence)
        try:
            return search(narrow, bench, measure_costs(bench, narrow.patterns, evidence), evidence, rivals)
        finally:
            bench.restore()


def fits_in_memory(problem: Problem, units: Sequence[Sequence[LinearLayer]]) -> bool:
    """Whether the model under all patterns fits in memory; if not, its blocks are measured one by one."""
    return bench_bytes(units, len(problem.patterns)) <= BENCH_BYTES


def search_streamed(problem: Problem, evidence: Evidence, rivals: Sequence[Assignment]) -> Selection:
    """`search` with one block in memory: the same rivals, knapsack and judge, but nothing is refined.

    Refinement measures slopes in a pruned model, where each of its steps would be passes of their own.
    """
    bench = StreamedBench(
        evidence.model,
        evidence.blocks,
        evidence.units,
        problem.patterns,
        evidence.treatment,
        evidence.samples,
        evidence.judged,
        evidence.mask,
    )
    loss = LossModel(np.array(evidence.once("curvature", lambda: bench.loss_model(evidence.seed).curvature.tolist())))
    tried = _first_tries(problem, loss, rivals)
    far = evidence.once("trials", lambda: bench.divergences(tried))
    winner = min(far, key=far.__getitem__)
    return Selection(explained(problem, loss.costs, tried[winner], winner), far, Search.STREAMED)


def _first_tries(problem: Problem, loss: LossModel, rivals: Sequence[Assignment]) -> dict[str, NDArray[np.int64]]:
    """Columns by name: the rivals, and the knapsack."""
    tried: dict[str, NDArray[np.int64]] = {}
    for rival in rivals:
        tried.setdefault(f"{rival.method} {_short(rival)}", _columns(problem, rival.patterns))
    tried["knapsack"] = _columns(problem, select_cheapest(problem, loss.costs).patterns)
    return tried


def rivals_of(problem: Problem, evidence: Evidence) -> list[Assignment]:
    """What simpler methods answer, which need no measurement: the uniform mixes, and the paper if it can."""
    rivals = [*uniform_mixes(problem.restricted(undominated(problem)))]
    if _can_answer_paper(problem):
        rivals.append(select_paper(problem, _facts(evidence)))
    return rivals


def set_up(patterns: Sequence[Pattern], evidence: Evidence) -> Bench:
    """Prune every layer under every pattern, from its statistics in the dense model."""
    dense = {layer.name: layer.weight for unit in evidence.units for layer in unit}
    treated = treat_layers(evidence.treatment, dense, evidence.dense, dict.fromkeys(dense, patterns), SEARCH_TOLERANCE)
    weights = {name: of_layer.weights for name, of_layer in treated.items()}
    return Bench(evidence.model, evidence.units, weights, Reference.of(evidence.model, evidence.judged, evidence.mask))


def measure_costs(bench: Bench, patterns: Sequence[Pattern], evidence: Evidence) -> LossModel:
    """What the patterns of a bench do to the loss of the dense model."""
    bench.restore()
    layers = [layer for unit in bench.units for layer in unit]
    middle = middle_pattern(patterns)
    probes = {layer.name: bench.treated[layer.name][middle] - layer.weight for layer in layers}
    samples = costed(evidence.samples)
    felt, predicted = sensitivities(evidence.model, layers, probes, samples, evidence.seed, evidence.mask)
    return loss_model(bench.units, bench.treated, evidence.dense, felt, predicted)


def _can_answer_paper(problem: Problem) -> bool:
    """Whether the paper's candidates on the menu can keep the budget."""
    columns = [column for column, pattern in enumerate(problem.patterns) if pattern in CANDIDATES]
    return bool(columns) and problem.resources[:, columns].min(axis=1).sum() <= problem.limit


def undominated(problem: Problem) -> list[int]:
    """Columns that are worth measuring: a mask of 2:4 is one of 4:8 too, so that 2:4 can only win by taking less."""

    def dominated(column: int) -> bool:
        pattern = problem.patterns[column]
        return any(
            other.m > pattern.m
            and _contains(other, pattern)
            and (problem.resources[:, index] <= problem.resources[:, column]).all()
            for index, other in enumerate(problem.patterns)
        )

    return [column for column in range(len(problem.patterns)) if not dominated(column)]


def _contains(other: Pattern, pattern: Pattern) -> bool:
    """Whether each mask of a pattern is one of another pattern, too, and as dense."""
    return other.m % pattern.m == 0 and other.n * pattern.m == pattern.n * other.m


def _columns(problem: Problem, patterns: Sequence[Pattern]) -> NDArray[np.int64]:
    """Columns of some patterns; for one that was left out as dominated, of the one that dominates it."""

    def column(pattern: Pattern) -> int:
        if pattern in problem.patterns:
            return problem.patterns.index(pattern)
        containing = [index for index, other in enumerate(problem.patterns) if _contains(other, pattern)]
        return min(containing, key=lambda index: int(problem.resources[:, index].sum()))

    return np.array([column(pattern) for pattern in patterns], dtype=np.int64)


def search(
    problem: Problem, bench: Bench, loss: LossModel, evidence: Evidence, rivals: Sequence[Assignment]
) -> Selection:
    """Solve the knapsack, refine it in the pruned model, and keep what diverges least from the dense one.

    Parameters
    ----------
    problem : Problem
        The problem; its patterns are those of the bench.
    bench : Bench
        The model under every pattern.
    loss : LossModel
        What they cost in the dense model.
    evidence : Evidence
        How many steps are worth their time.
    rivals : sequence of Assignment
        What else to compare with.
    """
    tried = _first_tries(problem, loss, rivals)
    if evidence.steps:
        # Most often it is where the steps begin: then its divergence comes with the slope.
        bench.slope(tried["knapsack"])
    far = {name: bench.divergence(columns) for name, columns in tried.items()}
    start = tried[min(far, key=far.__getitem__)]
    for step, columns in enumerate(refine(problem, bench, loss, start, evidence.steps), start=1):
        name = f"refined {step}"
        tried[name], far[name] = columns, bench.divergence(columns)
    winner = min(far, key=far.__getitem__)
    return Selection(explained(problem, loss.costs, tried[winner], winner), far, Search.IN_MEMORY)


def _short(rival: Assignment) -> str:
    """The patterns of a rival in a few characters."""
    return "+".join(str(pattern) for pattern in sorted(set(rival.patterns), key=lambda pattern: pattern.density))
