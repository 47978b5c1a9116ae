"""A run from a checkpoint to a folder of results that can be killed at any point and goes on from there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers

from flexcim.config import PRESETS, MacroConfig
from flexcim.errors import FlexCiMError
from flow.budgets import Budget
from flow.export import ExportError, check_replaceable, write_result
from flow.journal import Journal, file_facts, folder_facts
from flow.options import DEFAULT_SAMPLES, ActivationScale, Granularity, Method, Score, Update
from flow.pruner import Progress, prune
from flow.result import PruneResult

__all__ = ["DeviceError", "prune_to"]


class DeviceError(FlexCiMError):
    """A device that blocks cannot be computed on; the message is one sentence."""


def prune_to(
    output: str | os.PathLike[str],
    model_path: str | os.PathLike[str],
    *,
    sparsity: float | None = None,
    budget: Budget | None = None,
    calibration_text: str | os.PathLike[str],
    evaluation_text: str | os.PathLike[str] | None = None,
    config: MacroConfig = PRESETS["flexcim"],
    method: Method = Method.FLOW,
    score: Score | None = None,
    update: Update | None = None,
    granularity: Granularity | None = None,
    samples: int = DEFAULT_SAMPLES,
    length: int | None = None,
    stride: int | None = None,
    seed: int = 0,
    activations: ActivationScale = ActivationScale.TOKEN,
    activation_percentile: float = 100.0,
    device: str | None = None,
    progress: Progress | None = None,
) -> PruneResult:
    """Prune a model and write the result, with one block's weights in memory at a time.

    What is finished stays in a folder beside the output, ``<output>.partial``, until all is; the same call goes on from
    there and gives the same bytes, if the number of threads is the same.

    Parameters
    ----------
    output : path
        Folder to write; an earlier result is replaced.
    device : str, optional
        Where blocks are computed; by default CUDA if there is any, else the CPU.
    model_path, sparsity, budget, calibration_text, evaluation_text, config, method, score, update, granularity
        As in `prune`.
    samples, length, stride, seed, activations, activation_percentile, progress
        As in `prune`; what is written in the end is one step more.

    Raises
    ------
    FlexCiMError
        If an input or an option cannot be used, the output cannot be written, or the partial folder belongs to a run
        with other options or inputs; the message is one sentence.
    """
    check_replaceable(output, model_path)
    target = Path(output).resolve()
    place = _device(device)
    options: dict[str, Any] = {
        "sparsity": sparsity,
        "budget": None if budget is None else str(budget),
        "method": method.value,
        "score": score and score.value,
        "update": update and update.value,
        "granularity": granularity and granularity.value,
        "config": config.to_mapping(),
        "samples": samples,
        "length": length,
        "stride": stride,
        "seed": seed,
        "activations": activations.value,
        "activation_percentile": activation_percentile,
        "device": str(place),
        "model": folder_facts(model_path),
        "calibration": file_facts(calibration_text),
        "evaluation": file_facts(evaluation_text),
        "versions": [safetensors.__version__, torch.__version__, transformers.__version__],
    }
    partial = target.with_name(f"{target.name}.partial")
    try:
        with Journal(partial, options) as journal:
            result = prune(
                model_path,
                sparsity=sparsity,
                budget=budget,
                calibration_text=calibration_text,
                evaluation_text=evaluation_text,
                config=config,
                method=method,
                score=score,
                update=update,
                granularity=granularity,
                samples=samples,
                length=length,
                stride=stride,
                seed=seed,
                activations=activations,
                activation_percentile=activation_percentile,
                device=place,
                progress=progress,
                journal=journal,
            )
            if progress is not None:
                progress("packing and writing", 1, 1)
            write_result(output, result, journal)
    except OSError as error:
        kept = f"; what is finished is kept in {partial}" if partial.exists() else ""
        raise ExportError(f"{output}: cannot be written ({error.strerror}){kept}") from None
    return result


def _device(name: str | None) -> torch.device:
    """The device of this name, or the best there is."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"device {name} cannot be used ({str(error).splitlines()[0]})") from None
    return device
