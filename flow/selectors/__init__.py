"""Who chooses the patterns: selectors that answer the same problem, under one interface."""

from flow.selectors.flow import explained, select_cheapest
from flow.selectors.knapsack import solve_knapsack
from flow.selectors.owl import select_owl
from flow.selectors.paper import CANDIDATES, UnitFacts, candidates, objective, select_paper
from flow.selectors.problem import Assignment, Choice, Problem, SelectionError, Unit, units_of
from flow.selectors.uniform import select_uniform, uniform_mixes

__all__ = [
    "CANDIDATES",
    "Assignment",
    "Choice",
    "Problem",
    "SelectionError",
    "Unit",
    "UnitFacts",
    "candidates",
    "explained",
    "objective",
    "select_cheapest",
    "select_owl",
    "select_paper",
    "select_uniform",
    "solve_knapsack",
    "uniform_mixes",
    "units_of",
]
