"""A run that gives a pruned model a denser plan, from two folders to one; it can be killed, and goes on from there."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from flexcim import files
from flexcim.packed.cells import pack_layer
from flexcim.packed.folder import PackedLayer, PackedModel, write_packed
from flexcim.packed.plans import NestedPlan
from flexcim_flow.common.journal import Journal
from flexcim_flow.measure.evaluation import Evaluation
from flexcim_flow.nest.model import NestedLayer, NestedResult, nest_model
from flexcim_flow.nest.request import NestRequest
from flexcim_flow.nest.weights import quantize_nested
from flexcim_flow.prune.export import ExportError, check_replaceable
from flexcim_flow.prune.packing import PackedOnDemand
from flexcim_flow.prune.pruner import Progress

__all__ = ["nest_to", "nested_report", "pack_nested"]

_FORMAT = "flexcim pruned model"
"""That of `flexcim_flow.prune.export`: a result of either kind may replace one of the other."""

_SCHEMA_VERSION = 1


def nest_to(output: str | os.PathLike[str], request: NestRequest, *, progress: Progress | None = None) -> NestedResult:
    """Nest a model and write the result: ``checkpoint/`` (the denser plan), ``packed/`` and ``report.json``.

    What is finished stays in ``<output>.partial`` until all is; the same call goes on from there.

    Parameters
    ----------
    output : path
        Folder to write; an earlier result of ``flexcim nest`` or ``prune`` is replaced.
    request : NestRequest
        What is asked for.
    progress : callable, optional
        As in `nest_model`; what is written in the end is one step more.

    Raises
    ------
    FlexCiMError
        If an input or an option cannot be used, the output cannot be written, or the partial folder belongs to a run
        with other options or inputs; the message is one sentence.
    """
    check_replaceable(output, request.model)
    check_replaceable(output, request.sparser)
    target = Path(output).resolve()
    partial = target.with_name(f"{target.name}.partial")
    try:
        with Journal(partial, request.facts()) as journal:
            result = nest_model(request, journal, progress=progress)
            if progress is not None:
                progress("packing and writing", 1, 1)
            result.checkpoint.save(journal.checkpoint)
            write_packed(journal.result / "packed", pack_nested(result))
            files.write_text(journal.result / "report.json", json.dumps(nested_report(result), indent=2) + "\n")
            journal.finish(target)
            result.checkpoint.weights.relocate(journal.result, target)
    except OSError as error:
        kept = f"; what is finished is kept in {partial}" if partial.exists() else ""
        raise ExportError(f"{output}: cannot be written ({error.strerror}){kept}") from None
    return result


# -- the packed model --------------------------------------------------------------------------------------------------


def pack_nested(result: NestedResult) -> PackedModel:
    """All layers as they are loaded into the macro; each is packed when it is asked for."""
    metadata = {
        "model": result.checkpoint.name,
        "base": dict(result.sparser.metadata),
        "sparsity": {plan.value: result.sparsity(plan) for plan in NestedPlan},
    }
    return PackedModel(
        result.sparser.config,
        metadata,
        PackedOnDemand(result.layers, _pack_one, lambda layer: (layer.block, layer.base_block)),
    )


def _pack_one(layer: NestedLayer) -> PackedLayer:
    base, rest, scales = quantize_nested(layer.nested(), layer.tiling.config.weight_bits)
    parts = [base] if layer.tiling.rest is None else [base, rest]
    weights, offsets = pack_layer(layer.tiling, *(part.numpy() for part in parts))
    return PackedLayer(
        name=layer.name,
        tiling=layer.tiling,
        activation_scale=None,
        weight_scales=scales.numpy(),
        weights=weights,
        offsets=offsets,
    )


# -- the report --------------------------------------------------------------------------------------------------------


def nested_report(result: NestedResult) -> dict[str, Any]:
    """Everything about the run that can be counted, as JSON's plain values."""
    return {
        "format": _FORMAT,
        "schema_version": _SCHEMA_VERSION,
        "model": result.checkpoint.name,
        "base": dict(result.sparser.metadata),
        "share": result.request.share,
        "sparsity": {plan.value: result.sparsity(plan) for plan in NestedPlan},
        "given_sparsity": result.given_sparsity,
        "changed": result.changed_share,
        "calibration": {"samples": len(result.samples), "length": result.samples.shape[1], "seed": result.request.seed},
        "evaluation": {name: _evaluation(found) for name, found in result.evaluations.items()} or None,
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


def _evaluation(evaluation: Evaluation) -> dict[str, Any]:
    error = evaluation.loss.standard_error
    return {
        "bits_per_byte": evaluation.bits_per_byte,
        "loss": evaluation.loss.value,
        "standard_error": None if math.isnan(error) else error,  # a text of one window has none
        "predicted_tokens": evaluation.predicted,
        "bytes": evaluation.size,
    }
