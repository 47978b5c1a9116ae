"""A run that gives a pruned model a denser plan, from two folders to one; it can be killed, and goes on from there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers

from flexcim import files
from flexcim.packed import PackedLayer, PackedModel, write_packed
from flexcim.pattern import Pattern
from flexcim.plans import Plan
from flexcim.tiling import pack_layer
from flow.evaluation import Evaluation
from flow.export import ExportError, check_replaceable
from flow.journal import Journal, file_facts, folder_facts
from flow.nested_model import NestedLayer, NestedResult, Progress, nest_model
from flow.nesting import quantize_nested
from flow.options import DEFAULT_SAMPLES
from flow.packing import PackedOnDemand

__all__ = ["nest_to", "nested_report", "pack_nested"]

_FORMAT = "flexcim pruned model"
"""That of `flow.export`: a result of either kind may replace one of the other."""

_SCHEMA_VERSION = 1


def nest_to(
    output: str | os.PathLike[str],
    model_path: str | os.PathLike[str],
    sparser_path: str | os.PathLike[str],
    *,
    rest: Pattern | None = None,
    share: float = 0.0,
    calibration_text: str | os.PathLike[str],
    evaluation_text: str | os.PathLike[str] | None = None,
    samples: int = DEFAULT_SAMPLES,
    length: int | None = None,
    stride: int | None = None,
    seed: int = 0,
    progress: Progress = lambda name, done, total: None,
) -> NestedResult:
    """Nest a model and write the result: ``checkpoint/`` (the denser plan), ``packed/`` and ``report.json``.

    What is finished stays in ``<output>.partial`` until all is; the same call goes on from there.

    Parameters
    ----------
    output : path
        Folder to write; an earlier result of ``flexcim nest`` or ``prune`` is replaced.
    model_path, sparser_path, rest, share, calibration_text, evaluation_text, samples, length, stride, seed, progress
        As in `nest_model`.

    Raises
    ------
    FlexCiMError
        If an input or an option cannot be used, the output cannot be written, or the partial folder belongs to a run
        with other options or inputs; the message is one sentence.
    """
    check_replaceable(output, model_path)
    check_replaceable(output, sparser_path)
    target = Path(output).resolve()
    options: dict[str, Any] = {
        "rest": rest and str(rest),
        "share": share,
        "samples": samples,
        "length": length,
        "stride": stride,
        "seed": seed,
        "model": folder_facts(model_path),
        "sparser checkpoint": folder_facts(Path(sparser_path) / "checkpoint"),
        "sparser packed": folder_facts(Path(sparser_path) / "packed"),
        "calibration": file_facts(calibration_text),
        "evaluation": file_facts(evaluation_text),
        "versions": [safetensors.__version__, torch.__version__, transformers.__version__],
    }
    partial = target.with_name(f"{target.name}.partial")
    try:
        with Journal(partial, options) as journal:
            result = nest_model(
                model_path,
                sparser_path,
                journal,
                rest=rest,
                share=share,
                calibration_text=calibration_text,
                evaluation_text=evaluation_text,
                samples=samples,
                length=length,
                stride=stride,
                seed=seed,
                progress=progress,
            )
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
        "sparsity": {plan.value: result.sparsity(plan) for plan in Plan},
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
        "share": result.share,
        "sparsity": {plan.value: result.sparsity(plan) for plan in Plan},
        "calibration": {"samples": len(result.samples), "length": result.samples.shape[1], "seed": result.seed},
        "evaluation": {name: _evaluation(found) for name, found in result.evaluations.items()} or None,
        "config": result.sparser.config.to_mapping(),
        "layers": [
            {
                "name": layer.name,
                "outputs": layer.tiling.outputs,
                "inputs": layer.tiling.inputs,
                "pattern": str(layer.tiling.pattern),
                "rest": layer.tiling.rest and str(layer.tiling.rest),
                "zeros": dict(zip((plan.value for plan in Plan), result.zeros[layer.name], strict=True)),
                "residual": result.residuals[layer.name],
                "groups": layer.tiling.groups,
                "groups_why": layer.tiling.reason,
                "tiles": len(layer.tiling.tiles),
            }
            for layer in result.layers
        ],
    }


def _evaluation(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "bits_per_byte": evaluation.bits_per_byte,
        "loss": evaluation.loss.value,
        "standard_error": evaluation.loss.standard_error,
        "predicted_tokens": evaluation.predicted,
        "bytes": evaluation.size,
    }
