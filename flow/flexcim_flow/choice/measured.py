"""The measured choice: the patterns whose pruned model stays nearest to the dense model's predictions.

Every layer is pruned under every pattern, and what that does to the loss is measured. An exact knapsack chooses, its
answer is refined in the pruned model, and what diverges least from the dense model wins, the answers of simpler methods
included. Where the model under every pattern does not fit in memory, the same is measured block by block, but nothing
is refined.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flexcim.config.pattern import Pattern
from flexcim_flow.choice.costs import LossModel, loss_model, sensitivities
from flexcim_flow.choice.divergence import Reference
from flexcim_flow.choice.evidence import Evidence, Selection, costed, searched
from flexcim_flow.choice.knapsack import explained, select_cheapest
from flexcim_flow.choice.paper import CANDIDATES, facts_of, select_paper
from flexcim_flow.choice.problem import Assignment, Problem, columns_of, undominated
from flexcim_flow.choice.refinement import Bench, refine
from flexcim_flow.choice.selector import Observation, Selector
from flexcim_flow.choice.streamed import BENCH_BYTES, SEARCH_TOLERANCE, StreamedBench, bench_bytes, middle_pattern
from flexcim_flow.choice.uniform import uniform_mixes
from flexcim_flow.common.options import Search, Update
from flexcim_flow.layer.treatment import treat_layers
from flexcim_flow.model.blocks import LinearLayer

__all__ = ["MEASURED", "fits_in_memory", "measure_costs", "rivals_of", "search", "search_streamed", "set_up"]


def _choose(problem: Problem, evidence: Evidence) -> Selection:
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


def _needs(problem: Problem, units: Sequence[Sequence[LinearLayer]], samples: Tensor) -> Observation:
    """What fits in memory is pruned by these second moments; what is measured block by block takes its own."""
    return Observation(searched(samples, units), moments=fits_in_memory(problem, units))


def rivals_of(problem: Problem, evidence: Evidence) -> list[Assignment]:
    """What simpler methods answer, which need no measurement: the uniform mixes, and the paper if it can."""
    rivals = [*uniform_mixes(problem.restricted(undominated(problem)))]
    if _can_answer_paper(problem):
        rivals.append(select_paper(problem, facts_of(evidence)))
    return rivals


def _can_answer_paper(problem: Problem) -> bool:
    """Whether the paper's candidates on the menu can keep the budget."""
    columns = [column for column, pattern in enumerate(problem.patterns) if pattern in CANDIDATES]
    return bool(columns) and problem.resources[:, columns].min(axis=1).sum() <= problem.limit


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
        tried.setdefault(f"{rival.method} {_short(rival)}", columns_of(problem, rival.patterns))
    tried["knapsack"] = columns_of(problem, select_cheapest(problem, loss.costs).patterns)
    return tried


def _short(rival: Assignment) -> str:
    """The patterns of a rival in a few characters."""
    return "+".join(str(pattern) for pattern in sorted(set(rival.patterns), key=lambda pattern: pattern.density))


MEASURED = Selector(choose=_choose, needs=_needs, score="obs", update=Update.LSQ, compares=True)
"""Ours: what each pattern costs in loss is measured, an exact knapsack chooses, and the choice is refined."""
