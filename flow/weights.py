"""Weights on disk: read lazily from a checkpoint's files, block by block, and written back under their names there.

Names and shapes in the files are not always those of the model: transformers renames parameters when it loads them and
merges some (the experts of Mixtral). Its own conversions are used here, on the tensors of one block at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
    revert_weight_conversion,
)
from transformers.modeling_utils import LoadStateDictConfig

from flexcim.errors import FlexCiMError
from flow.blocks import Block
from flow.quiet import quiet

__all__ = ["INDEX", "SINGLE", "CheckpointError", "TensorFiles", "Weights", "shard_name", "write_tensors"]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class CheckpointError(FlexCiMError):
    """A checkpoint that cannot be used; the message is one sentence that names the folder."""


def shard_name(index: int, count: int) -> str:
    """Name of one of several files, as transformers has it."""
    return f"model-{index + 1:05d}-of-{count:05d}.safetensors"


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, which appears whole or not at all.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, {"format": "pt"})
        # safetensors makes its files for the owner alone; others may read what the user's mask lets them.
        temporary.chmod((path.parent.stat().st_mode & 0o444) | 0o200)
        os.replace(temporary, path)
    except SafetensorError as error:
        # The library knows the system's error, but only tells its text.
        raise OSError(None, _reason(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _reason(error: SafetensorError) -> str:
    text = str(error)
    return text.split("I/O error: ")[-1].split(" (os error")[0].strip('")')


class TensorFiles:
    """The tensors of a checkpoint, by the names they have in its files.

    Parameters
    ----------
    folder : path
        Holds ``model.safetensors``, several files and their index, or the same as PyTorch's own ``.bin`` files.

    Attributes
    ----------
    places : dict
        The file of each tensor.

    Raises
    ------
    CheckpointError
        If there is no such file, one is missing, or one cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.places: dict[str, Path] = {}
        self._facts: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        for path in self._files():
            try:
                with _opened(path) as file:
                    for name in file.names():
                        self.places[name] = path
                        self._facts[name] = file.facts(name)
            except Exception as error:
                raise CheckpointError(f"{folder}: its weights cannot be loaded ({path.name}: {error})") from error

    def _files(self) -> list[Path]:
        for single in (SINGLE, "pytorch_model.bin"):
            index = self._folder / f"{single}.index.json"
            if index.exists():
                try:
                    names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
                except (OSError, ValueError, LookupError, TypeError, AttributeError):
                    raise CheckpointError(f"{index}: cannot be read as an index of weight files") from None
                return [self._folder / name for name in names]
            if (self._folder / single).exists():
                return [self._folder / single]
        raise CheckpointError(
            f"{self._folder}: its weights cannot be loaded (there is no {SINGLE}, no {INDEX} and no pytorch_model.bin)"
        )

    def dtype(self, name: str) -> torch.dtype:
        """Its dtype in the file."""
        return self._facts[name][0]

    def shape(self, name: str) -> tuple[int, ...]:
        """Its shape in the file."""
        return self._facts[name][1]

    def size(self, names: Iterable[str]) -> int:
        """Bytes of some tensors."""
        return sum(self.dtype(name).itemsize * torch.Size(self.shape(name)).numel() for name in names)

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Read tensors; those in memory that is mapped from a file are read when they are used."""
        by_path: defaultdict[Path, list[str]] = defaultdict(list)
        for name in names:
            by_path[self.places[name]].append(name)
        tensors: dict[str, Tensor] = {}
        for path, inside in by_path.items():
            with _opened(path) as file:
                tensors |= {name: file.tensor(name) for name in inside}
        return tensors


class _opened:  # noqa: N801 - used like a function
    """A weight file of either format, open."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _opened:
        self._stack = contextlib.ExitStack()
        if self._path.suffix == ".safetensors":
            self._file = self._stack.enter_context(safe_open(self._path, framework="pt"))
            self._pickled = None
        else:
            self._pickled = torch.load(self._path, map_location="cpu", weights_only=True, mmap=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def names(self) -> list[str]:
        return list(self._file.keys() if self._pickled is None else self._pickled)

    def facts(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        if self._pickled is not None:
            return self._pickled[name].dtype, tuple(self._pickled[name].shape)
        part = self._file.get_slice(name)
        # An empty slice has the dtype as PyTorch knows it.
        return (part[:0].dtype if part.get_shape() else part[...].dtype), tuple(part.get_shape())

    def tensor(self, name: str) -> Tensor:
        return self._file.get_tensor(name) if self._pickled is None else self._pickled[name]


class Weights:
    """The weights of one model on disk; a `WeightStore` of its blocks.

    Parameters
    ----------
    model : PreTrainedModel
        The model, its parameters on the meta device.
    blocks : sequence of (name, module)
        Its stack.
    files : TensorFiles
        Its weights.
    device : torch.device
        Where blocks are loaded to.
    """

    def __init__(
        self, model: PreTrainedModel, blocks: Mapping[str, nn.Module], files: TensorFiles, device: torch.device
    ) -> None:
        self._model = model
        self._files = files
        self._device = device
        self._replaced: dict[str, Path] = {}
        self._finite: set[str] = set()
        self._targets: dict[str, str] = {}
        self._converted: set[str] = set()
        self._names: dict[str, list[str]] = {name: [] for name in (*blocks, "")}
        self._map_names(blocks)

    def _map_names(self, blocks: Mapping[str, nn.Module]) -> None:
        """Find which parameter each tensor of the files goes to, and which block that is in."""
        state = self._model.state_dict()
        mapping = get_model_conversion_mapping(self._model)
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        targets_of = {pattern: entry.target_patterns for entry in converters for pattern in entry.source_patterns}
        found: set[str] = set()
        for name in self._files.places:
            prefix = self._model.base_model_prefix
            target, pattern = rename_source_key(name, renamings, converters, prefix, state)
            if target not in state and name in state:
                target, pattern = rename_source_key(name, [], [], prefix, state)
            owner = next((block for block in blocks if target.startswith(f"{block}.")), "")
            self._names[owner].append(name)
            self._targets[name] = target
            if pattern is None:
                found.add(target)
                self._check_shape(name, target, state)
            else:
                self._converted.add(name)
                found |= {target.replace(targets_of[pattern][0], other) for other in targets_of[pattern]}
        for target in sorted(state.keys() - found):
            if any(target.startswith(f"{block}.") for block in blocks):
                raise CheckpointError(f"{self._folder}: {target} is missing among its weights")

    @property
    def _folder(self) -> Path:
        return self._files._folder

    def _check_shape(self, name: str, target: str, state: Mapping[str, Tensor]) -> None:
        if target in state and self._files.shape(name) != tuple(state[target].shape):
            stored, wanted = list(self._files.shape(name)), list(state[target].shape)
            raise CheckpointError(f"{self._folder}: {target} has shape {stored}, but its config.json makes it {wanted}")

    # -- into the model ------------------------------------------------------------------------------------------------

    def load(self, block: Block) -> None:
        """Put a block's weights into its module, in float32.

        Raises
        ------
        CheckpointError
            If a weight is not finite or of the wrong shape.
        """
        self._fill(self._names[block.name], self._device)
        for name, tensor in _tensors(block.module):
            self._check(f"{block.name}.{name}", tensor)

    def release(self, block: Block) -> None:
        """Put the block's parameters and persistent buffers back on the meta device."""
        for module in block.module.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False))
            for name, buffer in list(module.named_buffers(recurse=False)):
                if name not in module._non_persistent_buffers_set:
                    setattr(module, name, torch.empty_like(buffer, device="meta"))

    def load_rest(self) -> None:
        """Load all that is outside the blocks: embeddings, final norm, head.

        Raises
        ------
        CheckpointError
            If a weight is missing, not finite or of the wrong shape.
        """
        missing = self._fill(self._names[""], torch.device("cpu"))
        self._model.tie_weights(missing_keys=missing, recompute_mapping=False)
        blocks = tuple(f"{name}." for name in self._names if name)
        for name, tensor in _tensors(self._model):
            if not name.startswith(blocks):
                self._check(name, tensor)

    def _fill(self, names: Iterable[str], device: torch.device) -> set[str]:
        """Load tensors of the files into the model, and say which of the model's are still missing."""
        options = LoadStateDictConfig(
            dtype=torch.float32,
            device_map={"": str(device)},
            weight_mapping=get_model_conversion_mapping(self._model),
        )
        with quiet():
            loading, _ = convert_and_load_state_dict_in_model(self._model, self._read(names), options)
        for name, stored, wanted in sorted(loading.mismatched_keys):
            raise CheckpointError(
                f"{self._folder}: {name} has shape {list(stored)}, but its config.json makes it {list(wanted)}"
            )
        for error in loading.conversion_errors:
            raise CheckpointError(f"{self._folder}: {error} cannot be made from its weights")
        self._model.requires_grad_(False)
        return loading.missing_keys

    def _read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Tensors as they are now: pruned ones from where they were stored."""
        names = list(names)
        tensors = self._files.read([name for name in names if name not in self._replaced])
        by_path: defaultdict[Path, list[str]] = defaultdict(list)
        for name in names:
            if name in self._replaced:
                by_path[self._replaced[name]].append(name)
        for path, inside in by_path.items():
            with _opened(path) as file:
                tensors |= {name: file.tensor(name) for name in inside}
        return tensors

    def _check(self, name: str, tensor: Tensor) -> None:
        if tensor.is_meta:
            raise CheckpointError(f"{self._folder}: {name} is missing among its weights")
        if name in self._finite:
            return
        # The extremes of a tensor with a NaN are NaN.
        if tensor.numel() and not torch.stack(torch.aminmax(tensor)).isfinite().all():
            raise CheckpointError(f"{self._folder}: {name} holds values that are not finite")
        self._finite.add(name)

    # -- out of the model ----------------------------------------------------------------------------------------------

    def names(self, block: Block | None) -> list[str]:
        """Tensors of a block in the files, in order; of all that is in no block for None."""
        return sorted(self._names["" if block is None else block.name])

    def size(self) -> int:
        """Bytes of all tensors in the files."""
        return self._files.size(self._files.places)

    def round(self, block: Block) -> None:
        """Round the weights of a block's layers to the dtypes that they have in the files, in place."""
        narrow = {self._targets[name]: self._files.dtype(name) for name in self._names[block.name]}
        for path, stored in _stored(block).items():
            dtype = narrow.get(path, torch.float32)
            if dtype != torch.float32:
                stored.data.copy_(stored.data.to(dtype))

    def tensors(self, block: Block | None) -> dict[str, Tensor]:
        """Tensors of a loaded block as they belong into a file: its layers from memory, in the dtypes they came in, and
        all else as it is in the source."""
        names = self.names(block)
        fresh = {} if block is None else self._fresh(block)
        unknown = sorted(fresh.keys() - set(names))
        if unknown:
            raise CheckpointError(
                f"{self._folder}: {unknown[0]} would be written, but the checkpoint has no such weight"
            )
        tensors = self._read([name for name in names if name not in fresh])
        tensors |= {name: tensor.to("cpu", self._files.dtype(name)) for name, tensor in fresh.items()}
        return {name: tensors[name] for name in names}

    def _fresh(self, block: Block) -> dict[str, Tensor]:
        """The weights of a block's layers, by the names that the files have for them."""
        plain = {self._targets[name]: name for name in self._names[block.name] if name not in self._converted}
        stored = _stored(block)
        fresh = {plain[path]: parameter.data for path, parameter in stored.items() if path in plain}
        merged = {path: parameter.data for path, parameter in stored.items() if path not in plain}
        if merged:
            # Those that transformers merged when it loaded them, taken apart again.
            self._model._weight_conversions = [
                entry for entry in get_model_conversion_mapping(self._model) if isinstance(entry, WeightConverter)
            ] + self._used_renamings(block)
            fresh |= revert_weight_conversion(self._model, merged)
        return fresh

    def _used_renamings(self, block: Block) -> list[WeightRenaming]:
        """The renamings that did something to this block's names."""
        renamings = [entry for entry in get_model_conversion_mapping(self._model) if isinstance(entry, WeightRenaming)]
        return [
            entry
            for entry in renamings
            if any(entry.rename_source_key(name)[0] != name for name in self._names[block.name])
        ]

    def replace(self, block: Block, path: Path) -> None:
        """From now on read the block's tensors from another file."""
        self._replaced |= dict.fromkeys(self._names[block.name], path)

    def relocate(self, before: Path, after: Path) -> None:
        """Say that a folder with such files has another name now."""
        self._replaced = {
            name: after / path.relative_to(before) if path.is_relative_to(before) else path
            for name, path in self._replaced.items()
        }


def _stored(block: Block) -> dict[str, nn.Parameter]:
    """The parameters that hold the weights of a block's layers, by their paths in the model."""
    return {
        (layer.name if layer.expert is None else layer.name.rpartition(".")[0].rpartition(".")[0])
        + f".{layer.parameter}": layer.stored
        for layer in block.layers
    }


def _tensors(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """All floating parameters and persistent buffers by name."""
    return ((name, tensor) for name, tensor in module.state_dict().items() if tensor.is_floating_point())
