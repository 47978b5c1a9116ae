"""Requests for the pruner, for tests that care for few of their options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flexcim_flow.choice.budgets import SparsityBudget
from flexcim_flow.prune.request import PruneRequest


def asked(model: Path, *, sparsity: float | None = None, **options: Any) -> PruneRequest:
    """What pruning a model on the CPU is asked for, with a sparsity or whatever else the options say."""
    if sparsity is not None:
        options["budget"] = SparsityBudget(sparsity)
    return PruneRequest(model=model, **{"device": "cpu"} | options)
