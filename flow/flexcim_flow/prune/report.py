"""What a run tells: the plan, which can be edited and applied again, and the report of all that can be counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import tomli_w

from flexcim_flow.layer.treatment import Numerics
from flexcim_flow.measure.evaluation import Evaluation
from flexcim_flow.prune.recovery import RECOVERY_RATE, ends
from flexcim_flow.prune.result import PrunedLayer, PruneResult

__all__ = ["FORMAT", "evaluation_report", "plan_document", "report"]

FORMAT = "flexcim pruned model"
"""What a report says that it is."""

_SCHEMA_VERSION = 1
_STAGES = ("dense", "dense_quantized", "pruned", "recovered", "quantized")
_PLAN_ADVICE = """\
# The pattern of each layer. Edit them and apply the plan with: flexcim prune MODEL --plan THIS_FILE -o OUTPUT
# 'chosen' is the pattern that 'cost' and 'why' speak of; leave it as it is.

"""


def plan_document(result: PruneResult) -> str:
    """The plan of a run as a TOML document: for each layer its pattern, its sparsity, its cost and why.

    `flexcim_flow.prune.plan.read_plan` reads it.
    """
    request = result.request
    document: dict[str, Any] = {
        "model": result.checkpoint.name,
        "target": result.target,
        "budget": None if request.budget is None else str(request.budget),
        "method": request.chooser,
        "score": result.treatment.score,
        "update": result.treatment.update.value,
        "sparsity": result.sparsity,
    }
    given = {key: value for key, value in document.items() if value is not None}
    return _PLAN_ADVICE + tomli_w.dumps(given | {"layers": {layer.name: _plan_entry(layer) for layer in result.layers}})


def _plan_entry(layer: PrunedLayer) -> dict[str, Any]:
    """A layer's keys; a pattern that was set by hand has no cost, and nothing has chosen it."""
    pattern, cost = str(layer.pattern), layer.choice.cost
    chosen = {} if math.isnan(cost) else {"chosen": pattern}
    measured = {} if math.isnan(cost) else {"cost": cost}
    return {"pattern": pattern} | chosen | {"sparsity": layer.sparsity} | measured | {"why": layer.choice.reason}


def report(result: PruneResult) -> dict[str, Any]:
    """Everything about the run that can be counted, as JSON's plain values."""
    request, selection = result.request, result.selection
    return {
        "format": FORMAT,
        "schema_version": _SCHEMA_VERSION,
        "model": result.checkpoint.name,
        "target": result.target,
        "sparsity": result.sparsity,
        "parameters": {"model": result.parameters, "layers": result.weights, "zero": result.zeros},
        "budget": request.budget and str(request.budget),
        "method": request.source,
        "score": result.treatment.score,
        "update": result.treatment.update.value,
        "objective": selection and selection.assignment.objective,
        "trials": {} if selection is None else selection.trials,
        "search": selection and selection.search and selection.search.value,
        "calibration": {
            "samples": len(result.samples),
            "length": result.samples.shape[1] if result.samples.ndim == 2 else None,
            "seed": request.seed,
        },
        "recovery": _recovery(result.recovery),
        "evaluation": None
        if result.evaluations is None
        else {name: _evaluation(getattr(result.evaluations, name)) for name in _STAGES},
        "config": result.config.to_mapping(),
        "layers": [_layer(layer, result.numerics[layer.name]) for layer in result.layers],
    }


def _recovery(losses: Sequence[float]) -> dict[str, Any] | None:
    if not losses:
        return None
    first, last = ends(losses)
    return {"steps": len(losses), "rate": RECOVERY_RATE, "first_loss": first, "last_loss": last}


def _evaluation(evaluation: Evaluation | None) -> dict[str, Any] | None:
    return None if evaluation is None else evaluation_report(evaluation)


def evaluation_report(evaluation: Evaluation) -> dict[str, Any]:
    """What was measured on a text, as JSON's plain values."""
    error = evaluation.loss.standard_error
    return {
        "bits_per_byte": evaluation.bits_per_byte,
        "perplexity": evaluation.perplexity,
        "loss": evaluation.loss.value,
        "standard_error": None if math.isnan(error) else error,  # a text of one window has none
        "predicted_tokens": evaluation.predicted,
        "bytes": evaluation.size,
    }


def _layer(layer: PrunedLayer, numerics: Numerics) -> dict[str, Any]:
    scale = layer.activation_scale
    return {
        "name": layer.name,
        "outputs": layer.tiling.outputs,
        "inputs": layer.tiling.inputs,
        "pattern": str(layer.pattern),
        "sparsity": layer.sparsity,
        "cost": None if math.isnan(layer.choice.cost) else layer.choice.cost,
        "why": layer.choice.reason,
        **asdict(numerics),
        "groups": layer.tiling.groups,
        "groups_why": layer.tiling.reason,
        "tiles": len(layer.tiling.tiles),
        "activation_scale": None if scale is None else scale.item(),
    }
