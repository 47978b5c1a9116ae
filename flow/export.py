"""What pruning leaves on disk: the checkpoint, the packed model, the plan and the report, in one folder."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from flexcim.errors import FlexCiMError
from flexcim.packed import PackedLayer, PackedModel, write_packed
from flexcim.tiling import pack_layer
from flow.evaluation import Evaluation
from flow.result import PrunedLayer, PruneResult

__all__ = ["ExportError", "check_replaceable", "pack", "pack_one", "plan", "report", "write_result"]

_FORMAT = "flexcim pruned model"
_SCHEMA_VERSION = 1
_CONTENT = ("checkpoint", "packed", "plan.toml", "report.json")


class ExportError(FlexCiMError):
    """A folder that cannot be written; the message is one sentence that names it."""


# -- what is written ---------------------------------------------------------------------------------------------------


def pack_one(layer: PrunedLayer) -> PackedLayer:
    """The layer's cells, offsets and scales as they are loaded into the macro."""
    weights, offsets = pack_layer(layer.tiling, layer.weights.numpy())
    scale = layer.activation_scale
    return PackedLayer(
        name=layer.name,
        tiling=layer.tiling,
        activation_scale=None if scale is None else scale.item(),
        weight_scales=layer.scales.numpy(),
        weights=weights,
        offsets=offsets,
    )


def pack(result: PruneResult) -> PackedModel:
    """All layers as they are loaded into the macro."""
    metadata = {"model": result.checkpoint.name, "budget": str(result.budget), "sparsity": result.sparsity}
    return PackedModel(result.config, metadata, [pack_one(layer) for layer in result.layers])


def plan(result: PruneResult) -> str:
    """The plan as a TOML document: for each layer its pattern, its sparsity and why."""
    # JSON's strings and numbers, as they occur here, are TOML's as well.
    lines = [
        f"model = {json.dumps(result.checkpoint.name)}",
        f"budget = {json.dumps(str(result.budget))}",
        f"method = {json.dumps(result.method.value)}",
        f"score = {json.dumps(result.treatment.score.value)}",
        f"update = {json.dumps(result.treatment.update.value)}",
        f"sparsity = {json.dumps(result.sparsity)}",
    ]
    if result.target is not None:
        lines.insert(1, f"target = {json.dumps(result.target)}")
    for layer in result.layers:
        lines += [
            "",
            f"[layers.{json.dumps(layer.name)}]",
            f"pattern = {json.dumps(str(layer.pattern))}",
            f"sparsity = {json.dumps(layer.sparsity)}",
            f"why = {json.dumps(layer.choice.reason)}",
        ]
    return "\n".join(lines) + "\n"


def report(result: PruneResult) -> dict[str, Any]:
    """Everything about the run that can be counted, as JSON's plain values."""
    evaluations = result.evaluations
    return {
        "format": _FORMAT,
        "schema_version": _SCHEMA_VERSION,
        "model": result.checkpoint.name,
        "target": result.target,
        "sparsity": result.sparsity,
        "budget": str(result.budget),
        "method": result.method.value,
        "score": result.treatment.score.value,
        "update": result.treatment.update.value,
        "objective": result.selection.assignment.objective,
        "trials": result.selection.trials,
        "calibration": {"samples": len(result.samples), "length": result.samples.shape[1], "seed": result.seed},
        "evaluation": None
        if evaluations is None
        else {name: _evaluation(getattr(evaluations, name)) for name in ("dense", "pruned", "quantized")},
        "config": result.config.to_mapping(),
        "layers": [_layer(layer, result.damping[layer.name]) for layer in result.layers],
    }


def _evaluation(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "bits_per_byte": evaluation.bits_per_byte,
        "perplexity": evaluation.perplexity,
        "predicted_tokens": evaluation.predicted,
        "bytes": evaluation.size,
    }


def _layer(layer: PrunedLayer, damping: float | None) -> dict[str, Any]:
    scale = layer.activation_scale
    return {
        "name": layer.name,
        "outputs": layer.tiling.outputs,
        "inputs": layer.tiling.inputs,
        "pattern": str(layer.pattern),
        "sparsity": layer.sparsity,
        "cost": layer.choice.cost,
        "why": layer.choice.reason,
        "damping": damping,
        "groups": layer.tiling.groups,
        "groups_why": layer.tiling.reason,
        "tiles": len(layer.tiling.tiles),
        "activation_scale": None if scale is None else scale.item(),
    }


# -- the folder --------------------------------------------------------------------------------------------------------


def check_replaceable(folder: str | os.PathLike[str], model: str | os.PathLike[str]) -> None:
    """Say before the work begins whether `write_result` may write the folder.

    Parameters
    ----------
    folder : path
        The folder to write: absent, empty, or the result of an earlier run, which will be replaced.
    model : path
        The checkpoint that is read; it must not be in the folder that is replaced.

    Raises
    ------
    ExportError
        If something is there that is not ours to replace, or the checkpoint is in it.
    """
    target, source = Path(folder).resolve(), Path(model).resolve()
    if not target.exists():
        return
    if not target.is_dir():
        raise ExportError(f"{folder}: is a file, so no folder can be written there")
    names = sorted(entry.name for entry in target.iterdir())
    foreign = [name for name in names if name not in _CONTENT]
    if names and (foreign or not _is_ours(target)):
        raise ExportError(
            f"{folder}: holds {(foreign or names)[0]!r}, which is no result of flexcim prune, so it is not replaced"
        )
    if source.is_relative_to(target):
        raise ExportError(f"{folder}: holds the checkpoint {model} that is to be pruned, so it is not replaced")


def _is_ours(folder: Path) -> bool:
    try:
        document = json.loads((folder / "report.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("format") == _FORMAT


def write_result(folder: str | os.PathLike[str], result: PruneResult) -> None:
    """Write ``checkpoint/``, ``packed/``, ``plan.toml`` and ``report.json``; the folder appears whole or not at all.

    Raises
    ------
    ExportError
        If the folder cannot be written.
    """
    target = Path(folder).resolve()
    # Beside the target, so that the renames stay within one file system.
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}.new")
    replaced = fresh.with_suffix(".old")
    try:
        fresh.mkdir(parents=True)
        result.checkpoint.save(fresh / "checkpoint")
        write_packed(fresh / "packed", pack(result))
        (fresh / "plan.toml").write_text(plan(result), encoding="utf-8")
        (fresh / "report.json").write_text(json.dumps(report(result), indent=2) + "\n", encoding="utf-8")
        if target.exists():
            target.rename(replaced)
        try:
            fresh.rename(target)
        except OSError:
            if replaced.exists():
                replaced.rename(target)
            raise
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if target.exists():
            shutil.rmtree(replaced, ignore_errors=True)
