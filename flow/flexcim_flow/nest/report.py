"""The report of a nested model: all that can be counted under both plans."""

from __future__ import annotations

from typing import Any

from flexcim.packed.plans import NestedPlan
from flexcim_flow.nest.result import NestedResult
from flexcim_flow.prune.folder import NESTED_FORMAT
from flexcim_flow.prune.report import evaluation_report

__all__ = ["nested_report"]

_SCHEMA_VERSION = 1


def nested_report(result: NestedResult) -> dict[str, Any]:
    """Everything about the run that can be counted, as JSON's plain values."""
    return {
        "format": NESTED_FORMAT,
        "schema_version": _SCHEMA_VERSION,
        "model": result.checkpoint.name,
        "base": dict(result.sparser.metadata),
        "share": result.request.share,
        "sparsity": {plan.value: result.sparsity(plan) for plan in NestedPlan},
        "given_sparsity": result.given_sparsity,
        "changed": result.changed_share,
        "calibration": {"samples": len(result.samples), "length": result.samples.shape[1], "seed": result.request.seed},
        "evaluation": {name: evaluation_report(found) for name, found in result.evaluations.items()} or None,
        "config": result.sparser.config.to_mapping(),
        "layers": [
            {
                "name": layer.name,
                "outputs": layer.tiling.outputs,
                "inputs": layer.tiling.inputs,
                "pattern": str(layer.tiling.pattern),
                "rest": layer.tiling.rest and str(layer.tiling.rest),
                "zeros": dict(zip((plan.value for plan in NestedPlan), result.zeros[layer.name], strict=True)),
                "given_zeros": result.given_zeros[layer.name],
                "changed": result.changed[layer.name],
                "residual": result.residuals[layer.name],
                "groups": layer.tiling.groups,
                "groups_why": layer.tiling.reason,
                "tiles": len(layer.tiling.tiles),
            }
            for layer in result.layers
        ],
    }
