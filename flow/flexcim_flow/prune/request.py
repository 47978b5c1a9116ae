"""What a run of the pruner is asked for, said once: the library, the journal and the command all speak of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, TypeAlias

import safetensors
import torch
import transformers

from flexcim.config.macro import PRESETS, MacroConfig
from flexcim.errors import FlexCiMError
from flexcim_flow.choice.budgets import Budget
from flexcim_flow.choice.search import default_granularity
from flexcim_flow.common.journal import file_facts, folder_facts
from flexcim_flow.common.options import DEFAULT_SAMPLES, ActivationScale, Granularity, Method, Score, Update
from flexcim_flow.common.seeds import check_seed
from flexcim_flow.layer.treatment import Treatment, default_treatment
from flexcim_flow.prune.plan import Plan

__all__ = ["DeviceError", "PruneRequest", "RequestError", "Setting"]

_Path: TypeAlias = str | os.PathLike[str]


class RequestError(FlexCiMError):
    """Options that mean nothing, or do not go together; the message is one sentence."""


class DeviceError(FlexCiMError):
    """A device that blocks cannot be computed on; the message is one sentence."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every run needs: a model, and the texts that it is calibrated and measured on.

    Parameters
    ----------
    model : path
        Local folder of a checkpoint in Hugging Face format.
    calibration : path
        UTF-8 file to take the calibration samples from; for a model of images a safetensors file with ``pixel_values``
        [images, channels, height, width], floating. ``measured`` sets an eighth of the text or the images apart, to
        compare whole pruned models on. Masked language models read samples with masks if their tokenizer has one.
    evaluation : path, optional
        UTF-8 file to measure bits per byte on; it must share no long passage with the calibration text.
    samples : int
        Calibration samples.
    length : int, optional
        Tokens of a sample and of an evaluation window; by default 512, or the model's context if that is shorter.
    stride : int, optional
        Tokens from one evaluation window to the next; by default the length.

    Raises
    ------
    RequestError
        If a number of samples or tokens is not positive.
    """

    model: _Path
    calibration: _Path
    evaluation: _Path | None = None
    samples: int = DEFAULT_SAMPLES
    length: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        for name in ("samples", "length", "stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RequestError(f"{name} must be at least 1, not {value}")

    def facts(self) -> dict[str, Any]:
        """All that the result depends on, as JSON's plain values; files by their checksums."""
        return {
            "samples": self.samples,
            "length": self.length,
            "stride": self.stride,
            "model": folder_facts(self.model),
            "calibration": file_facts(self.calibration),
            "evaluation": file_facts(self.evaluation),
            "versions": [safetensors.__version__, torch.__version__, transformers.__version__],
        }


@dataclass(frozen=True, kw_only=True)
class PruneRequest(Setting):
    """What pruning a model for one macro is asked for.

    Parameters
    ----------
    model, calibration, evaluation, samples, length, stride
        As in `Setting`.
    config : MacroConfig
        The macro: its menu, and the widths of weights and activations.
    budget : Budget, optional
        What limits the choice of patterns; either this or a plan.
    plan : Plan, optional
        The pattern of each layer, so that nothing needs to be chosen; it excludes budget, method and granularity.
    method : Method, optional
        Who chooses the patterns; by default ``measured``.
    granularity : Granularity, optional
        What gets a pattern of its own; by default each block for ``paper``, and each layer for the others.
    score : Score, optional
        What masks are chosen by; by default what the plan says, else `Score.OBS` for ``measured`` and plans, and
        `Score.WANDA` for other methods.
    update : Update, optional
        What happens to the kept weights; by default what the plan says, else `Update.LSQ` for ``measured`` and plans,
        and nothing for other methods.
    seed : int
        Seed of the samples' places, of the masks' places in them, of the labels that ``measured`` draws, and of the
        recovery's samples.
    recover : int
        Steps of fine-tuning with the zeros held, after pruning (`flexcim_flow.prune.recovery`); the whole model is in
        memory then.
    activations : ActivationScale
        Whether each token gets its own scale or each layer one from the calibration.
    activation_percentile : float
        Percentile of the magnitudes that a layer's scale maps to the largest integer, above 0, up to 100, the largest;
        what is larger is clipped. Other than 100 only with `ActivationScale.TENSOR`.
    device : str, optional
        Where blocks are computed; by default CUDA if there is any, else the CPU.

    Raises
    ------
    RequestError, SeedError
        If options mean nothing or do not go together.
    """

    config: MacroConfig = PRESETS["flexcim"]
    budget: Budget | None = None
    plan: Plan | None = None
    method: Method | None = None
    granularity: Granularity | None = None
    score: Score | None = None
    update: Update | None = None
    seed: int = 0
    recover: int = 0
    activations: ActivationScale = ActivationScale.TOKEN
    activation_percentile: float = 100.0
    device: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.plan is None and self.budget is None:
            raise RequestError("a budget or a plan must be given")
        for name in ("budget", "method", "granularity"):
            if self.plan is not None and getattr(self, name) is not None:
                raise RequestError(f"a plan names the pattern of each layer, so that it excludes a {name}")
        check_seed(self.seed)
        if self.recover < 0:
            raise RequestError(f"recovery steps must be at least 0, not {self.recover}")
        if not 0 < self.activation_percentile <= 100:
            raise RequestError(
                f"activation percentile must be above 0 and at most 100, not {self.activation_percentile}"
            )
        if self.activations is not ActivationScale.TENSOR and self.activation_percentile != 100:
            raise RequestError(
                f"activation percentile {self.activation_percentile} needs activations tensor, not "
                f"{self.activations.value}, which scales each token by its own largest magnitude"
            )

    @property
    def chooser(self) -> Method:
        """The method that chooses the patterns, or has chosen those of the plan."""
        return (self.method or Method.MEASURED) if self.plan is None else self.plan.method

    @property
    def source(self) -> str:
        """Where the patterns come from: the method's name, or ``plan``."""
        return self.chooser.value if self.plan is None else "plan"

    @property
    def by_block(self) -> bool:
        """Whether a block has one pattern for all its layers."""
        return (self.granularity or default_granularity(self.chooser)) is Granularity.BLOCK

    @property
    def treatment(self) -> Treatment:
        """How a layer is pruned once its pattern is known."""
        if self.plan is None:
            return default_treatment(self.chooser, self.score, self.update)
        return default_treatment(Method.MEASURED, self.score or self.plan.score, self.update or self.plan.update)

    @property
    def percentile(self) -> float | None:
        """The percentile that layers' scales come from; None if each token has its own."""
        return self.activation_percentile if self.activations is ActivationScale.TENSOR else None

    @property
    def place(self) -> torch.device:
        """The device.

        Raises
        ------
        DeviceError
            If it cannot be used.
        """
        try:
            device = torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise DeviceError(f"device {self.device} cannot be used ({str(error).splitlines()[0]})") from None
        return device

    def facts(self) -> dict[str, Any]:
        """All that the result depends on, as JSON's plain values; files by their checksums."""
        return {
            "config": self.config.to_mapping(),
            "budget": self.budget and repr(self.budget),
            "plan": self.plan and self.plan.checksum(),
            "method": self.method and self.method.value,
            "granularity": self.granularity and self.granularity.value,
            "score": self.treatment.score.value,
            "update": self.treatment.update.value,
            "seed": self.seed,
            "recovery": self.recover,
            "activations": self.activations.value,
            "activation_percentile": self.activation_percentile,
            "device": str(self.place),
            **super().facts(),
        }
