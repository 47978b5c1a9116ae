"""Checkpoints in Hugging Face format: read from a local folder, checked, and written back in the dtypes they had."""

from __future__ import annotations

import contextlib
import json
import os
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from flexcim.errors import FlexCiMError
from flow.quiet import quiet

__all__ = ["Checkpoint", "CheckpointError", "load_checkpoint"]


class CheckpointError(FlexCiMError):
    """A folder that holds no causal language model to prune; the message is one sentence that names the folder."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A causal language model and its tokenizer.

    Parameters
    ----------
    name : str
        Name of the folder that it came from.
    model : PreTrainedModel
        The model on the CPU, in float32 and in evaluation mode.
    tokenizer : PreTrainedTokenizerBase
        Its tokenizer.
    dtypes : dict
        The dtypes that its parameters and buffers have on disk, by name.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    dtypes: dict[str, torch.dtype]

    @property
    def context(self) -> int | None:
        """Tokens that the model can see at once, if its configuration limits them."""
        return getattr(self.model.config, "max_position_embeddings", None)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write model and tokenizer so that plain transformers loads them, each tensor in the dtype it came in."""
        with quiet(), self._original_dtypes():
            self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        # safetensors makes its files for the owner alone, the others are as readable as the user's mask has it.
        mode = (Path(folder) / "config.json").stat().st_mode
        for path in Path(folder).glob("*.safetensors"):
            path.chmod(mode)

    @contextlib.contextmanager
    def _original_dtypes(self) -> Iterator[None]:
        # save_pretrained takes the dtype of config.json from the model, so the model itself must have it meanwhile.
        wide = {name: tensor.data for name, tensor in _tensors(self.model)}
        try:
            for name, tensor in _tensors(self.model):
                tensor.data = tensor.data.to(self.dtypes[name])
            yield
        finally:
            for name, tensor in _tensors(self.model):
                tensor.data = wide[name]


def load_checkpoint(folder: str | os.PathLike[str]) -> Checkpoint:
    """Read a causal language model and its tokenizer from a local folder; nothing is ever downloaded.

    Raises
    ------
    CheckpointError
        If the folder is missing or unreadable, holds no causal language model or not all of its weights, a weight is
        not finite, or there is no tokenizer.
    """
    path = Path(folder)
    _check_folder(path)
    with quiet():
        try:
            config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise _unreadable(path, "its config.json", error) from error
        if not _is_causal(config):
            kind = ", ".join(config.architectures or [config.model_type])
            raise CheckpointError(f"{path}: {kind} is no causal language model")
        if getattr(config, "quantization_config", None) is not None:
            raise CheckpointError(f"{path}: its weights are quantised already, but only plain ones can be pruned")
        try:
            model, loading = AutoModelForCausalLM.from_pretrained(
                path,
                config=config,
                dtype="auto",
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                output_loading_info=True,
            )
        except Exception as error:
            raise _unreadable(path, "its weights", error) from error
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise _unreadable(path, "its tokenizer", error) from error
    for name in sorted(loading["missing_keys"]):
        raise CheckpointError(f"{path}: {name} is missing among its weights")
    for name, stored, wanted in sorted(loading["mismatched_keys"]):
        raise CheckpointError(f"{path}: {name} has shape {list(stored)}, but its config.json makes it {list(wanted)}")
    for name, tensor in _tensors(model):
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite")
    for key in ("is_local", "local_files_only"):
        # How it was loaded is no property of the tokenizer, and must not be saved with it.
        tokenizer.init_kwargs.pop(key, None)
    dtypes = {name: tensor.dtype for name, tensor in _tensors(model)}
    # CPUs calculate in float32 fastest, and the scores need its range; half precision comes back unchanged.
    return Checkpoint(path.resolve().name, model.float().eval(), tokenizer, dtypes)


def _check_folder(path: Path) -> None:
    """Raise CheckpointError unless there is a readable config.json."""
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such folder (checkpoints are read from local folders only)")
    if not path.is_dir():
        raise CheckpointError(f"{path}: is a file, but a checkpoint is a folder")
    config = path / "config.json"
    try:
        json.loads(config.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: has no config.json, so it is no checkpoint in Hugging Face format") from None
    except OSError as error:
        raise CheckpointError(f"{config}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise CheckpointError(f"{config}: is no JSON ({error})") from None


def _is_causal(config: PreTrainedConfig) -> bool:
    """Whether transformers has a causal model for the configuration, and the checkpoint was saved from that one."""
    classes = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), ())
    names = [kind.__name__ for kind in (classes if isinstance(classes, tuple) else (classes,))]
    return bool(names) and any(name in names for name in config.architectures or names)


def _unreadable(path: Path, what: str, error: Exception) -> CheckpointError:
    # transformers raises errors of many classes, some with paragraphs of advice for people who are online.
    reason = textwrap.shorten(str(error), 200, placeholder=" ...")
    return CheckpointError(f"{path}: {what} cannot be loaded ({reason})")


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """All floating parameters and buffers by name."""
    for named in (model.named_parameters(), model.named_buffers()):
        yield from ((name, tensor) for name, tensor in named if tensor.is_floating_point())
