"""What every run is asked for, said once: prune, nest and compare add their own fields to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from types import MappingProxyType
from typing import Any, TypeAlias

import safetensors
import torch
import transformers

from flexcim.errors import FlexCiMError
from flexcim_flow.common.journal import file_facts, folder_facts
from flexcim_flow.common.options import DEFAULT_SAMPLES

__all__ = ["FILE", "FOLDER", "DeviceError", "RequestError", "Setting"]

_Path: TypeAlias = str | os.PathLike[str]

FILE: Mapping[str, Any] = MappingProxyType({"fact": file_facts})
"""Metadata of a field that names a file: what counts is what the file holds."""

FOLDER: Mapping[str, Any] = MappingProxyType({"fact": folder_facts})
"""Metadata of a field that names a folder: what counts is what the folder holds."""


class RequestError(FlexCiMError):
    """Options that mean nothing, or do not go together; the message is one sentence."""


class DeviceError(FlexCiMError):
    """A device that blocks cannot be computed on; the message is one sentence."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A model, the texts that it is calibrated and measured on, and where it is computed.

    Parameters
    ----------
    model : path
        Local folder of a checkpoint in Hugging Face format.
    calibration : path
        UTF-8 file to take the calibration samples from.
    evaluation : path, optional
        UTF-8 file to measure bits per byte on; it must share no long passage with the calibration text.
    samples : int
        Calibration samples.
    length : int, optional
        Tokens of a sample and of an evaluation window; by default 512, or the model's context if that is shorter.
    stride : int, optional
        Tokens from one evaluation window to the next; by default the length. It needs a text to measure on.
    device : str, optional
        Where blocks are computed, such as ``cpu`` or ``cuda:0``; by default CUDA if there is any, else the CPU.

    Raises
    ------
    RequestError
        If a number of samples or tokens is not positive, or the stride has no text.
    """

    model: _Path = field(metadata=FOLDER)
    calibration: _Path = field(metadata=FILE)
    evaluation: _Path | None = field(default=None, metadata=FILE)
    samples: int = DEFAULT_SAMPLES
    length: int | None = None
    stride: int | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        for name in ("samples", "length", "stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RequestError(f"{name} must be at least 1, not {value}")
        if self.stride is not None and self.evaluation is None:
            raise RequestError(f"stride {self.stride} has no effect without a text to evaluate on")

    @property
    def place(self) -> torch.device:
        """The device.

        Raises
        ------
        DeviceError
            If nothing can be computed on it.
        """
        try:
            device = torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise DeviceError(f"device {self.device} cannot be used ({str(error).splitlines()[0]})") from None
        if device.type == "meta":
            raise DeviceError(f"device {self.device} cannot be used (it keeps the shapes of tensors, but no values)")
        return device

    def facts(self) -> dict[str, Any]:
        """All that the result depends on, as JSON's plain values: each field, and the libraries' versions.

        The metadata of a field may name the function that makes its fact, as `FILE` and `FOLDER` do.
        """
        facts = {one.name: one.metadata.get("fact", _plain)(getattr(self, one.name)) for one in fields(self)}
        versions = [safetensors.__version__, torch.__version__, transformers.__version__]
        return facts | {"device": str(self.place), "versions": versions}


def _plain(value: Any) -> Any:
    """A value as JSON has it: numbers, texts and None as they are, all else in words."""
    if isinstance(value, Enum):
        return value.value
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)
