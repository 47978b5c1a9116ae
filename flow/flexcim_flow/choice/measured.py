"""The measured choice: the patterns whose pruned model stays nearest to the dense model's predictions.

Every layer is pruned under every pattern, and what that does to the loss is measured. An exact knapsack chooses, its
answer is refined in the pruned model, and what diverges least from the dense model wins, the answers of simpler methods
included.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from flexcim_flow.choice.evidence import Evidence, Selection
from flexcim_flow.choice.paper import CANDIDATES, facts_of, select_paper
from flexcim_flow.choice.problem import Assignment, Problem, undominated
from flexcim_flow.choice.search import measure_costs, search, search_streamed, set_up
from flexcim_flow.choice.selector import Observation, Selector
from flexcim_flow.choice.shares import searched
from flexcim_flow.choice.streamed import BENCH_BYTES, bench_bytes
from flexcim_flow.choice.uniform import uniform_mixes
from flexcim_flow.common.options import Update
from flexcim_flow.model.blocks import LinearLayer

__all__ = ["MEASURED", "fits_in_memory", "rivals_of"]


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


MEASURED = Selector(choose=_choose, needs=_needs, score="obs", update=Update.LSQ, compares=True)
"""Ours: what each pattern costs in loss is measured, an exact knapsack chooses, and the choice is refined."""
