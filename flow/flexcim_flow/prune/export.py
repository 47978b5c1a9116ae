"""What pruning leaves on disk: the checkpoint, the packed model, the plan and the report, in one folder."""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w

from flexcim import files
from flexcim.errors import FlexCiMError
from flexcim.packed.cells import pack_layer
from flexcim.packed.folder import PackedLayer, PackedModel, write_packed
from flexcim_flow.common.journal import Journal
from flexcim_flow.layer.treatment import Numerics
from flexcim_flow.measure.evaluation import Evaluation
from flexcim_flow.prune.packing import PackedOnDemand
from flexcim_flow.prune.recovery import RECOVERY_RATE, ends
from flexcim_flow.prune.result import PrunedLayer, PruneResult

__all__ = ["ExportError", "check_replaceable", "pack", "pack_one", "plan_document", "report", "write_result"]

_FORMAT = "flexcim pruned model"
_SCHEMA_VERSION = 1
_STAGES = ("dense", "dense_quantized", "pruned", "recovered", "quantized")
_PLAN_ADVICE = """\
# The pattern of each layer. Edit them and apply the plan with: flexcim prune MODEL --plan THIS_FILE -o OUTPUT
# 'chosen' is the pattern that 'cost' and 'why' speak of; leave it as it is.

"""
_CONTENT = ("checkpoint", "packed", "plan.toml", "report.json")


class ExportError(FlexCiMError):
    """A folder that cannot be written; the message is one sentence that names it."""


# -- what is written ---------------------------------------------------------------------------------------------------


def pack_one(layer: PrunedLayer) -> PackedLayer:
    """The layer's cells, offsets and scales as they are loaded into the macro."""
    integers, scales = layer.integers()
    weights, offsets = pack_layer(layer.tiling, integers.numpy())
    scale = layer.activation_scale
    return PackedLayer(
        name=layer.name,
        tiling=layer.tiling,
        activation_scale=None if scale is None else scale.item(),
        weight_scales=scales.numpy(),
        weights=weights,
        offsets=offsets,
    )


def pack(result: PruneResult) -> PackedModel:
    """All layers as they are loaded into the macro; each is packed when it is asked for."""
    metadata = {"model": result.checkpoint.name, "sparsity": result.sparsity}
    return PackedModel(result.config, metadata, PackedOnDemand(result.layers, pack_one, lambda layer: (layer.block,)))


def plan_document(result: PruneResult) -> str:
    """The plan of a run as a TOML document: for each layer its pattern, its sparsity, its cost and why.

    `flexcim_flow.prune.plan.read_plan` reads it.
    """
    request = result.request
    document: dict[str, Any] = {
        "model": result.checkpoint.name,
        "target": result.target,
        "budget": None if request.budget is None else str(request.budget),
        "method": request.chooser.value,
        "score": result.treatment.score.value,
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
        "format": _FORMAT,
        "schema_version": _SCHEMA_VERSION,
        "model": result.checkpoint.name,
        "target": result.target,
        "sparsity": result.sparsity,
        "parameters": {"model": result.parameters, "layers": result.weights, "zero": result.zeros},
        "budget": request.budget and str(request.budget),
        "method": request.source,
        "score": result.treatment.score.value,
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
    if evaluation is None:
        return None
    return {
        "bits_per_byte": evaluation.bits_per_byte,
        "perplexity": evaluation.perplexity,
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


def write_result(folder: str | os.PathLike[str], result: PruneResult, journal: Journal | None = None) -> None:
    """Write ``checkpoint/``, ``packed/``, ``plan.toml`` and ``report.json``; the folder appears whole or not at all.

    Parameters
    ----------
    folder : path
        What `check_replaceable` lets pass.
    result : PruneResult
        What is written.
    journal : Journal, optional
        The journal that the model was pruned with; what is in it is not written again.

    Raises
    ------
    ExportError
        If the folder cannot be written without a journal.
    OSError
        If it cannot be written with one.
    """
    target = Path(folder).resolve()
    if journal is not None:
        _write(journal, result, target)
        return
    # Beside the target, so that the renames stay within one file system.
    work = target.with_name(f".{target.name}.{secrets.token_hex(4)}.new")
    try:
        with Journal(work, {}) as journal:
            _write(journal, result, target)
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write(journal: Journal, result: PruneResult, target: Path) -> None:
    result.checkpoint.save(journal.checkpoint)
    write_packed(journal.result / "packed", pack(result))
    files.write_text(journal.result / "plan.toml", plan_document(result))
    files.write_text(journal.result / "report.json", json.dumps(report(result), indent=2) + "\n")
    journal.finish(target)
    result.checkpoint.weights.relocate(journal.result, target)
