"""The weights of a model's blocks on disk: loaded block by block, and written back under the names they had there.

Names and shapes in the files are not always those of the model: transformers renames parameters when it loads them and
merges some (the experts of Mixtral). Its own conversions are used here, on the tensors of one block at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
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

from flexcim.quiet import quiet
from flexcim_flow.model.blocks import Block
from flexcim_flow.model.tensors import CheckpointError, TensorFiles

__all__ = ["Weights"]


class Weights:
    """The weights of one model on disk; a `WeightStore` of its blocks.

    Parameters
    ----------
    model : PreTrainedModel
        The model, its parameters on the meta device.
    blocks : mapping
        The modules of its stack by their paths.
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
        self._trained = False
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
        return self._files.folder

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
        block.module.to(self._device)  # what it computes from the configuration, such as frequencies

    def release(self, block: Block) -> None:
        """Put the block's parameters and persistent buffers back on the meta device."""
        for module in block.module.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False))
            for name, buffer in list(module.named_buffers(recurse=False)):
                if name not in module._non_persistent_buffers_set:
                    setattr(module, name, torch.empty_like(buffer, device="meta"))

    def load_rest(self) -> None:
        """Load all that is outside the blocks: embeddings, final norm, head; also again, after `replace`.

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
        return self._files.read(names, self._replaced)

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
        self._round(block, _stored(block))

    def settle_trained(self, blocks: Iterable[Block]) -> None:
        """Round all parameters of a model that was trained in place, all of it in memory, in the same way.

        From now on `tensors` takes every parameter from memory, until `replace_all`.
        """
        self._trained = True
        for block in (*blocks, None):
            self._round(block, self._parameters(block))

    def _round(self, block: Block | None, parameters: Mapping[str, nn.Parameter]) -> None:
        names = self.names(block)
        narrow = {self._targets[name]: self._files.dtype(name) for name in names}
        # A tensor that transformers splits is known under the first part's path; the others have its dtype.
        split = next((self._files.dtype(name) for name in names if name in self._converted), torch.float32)
        for path, stored in parameters.items():
            dtype = narrow.get(path, split)
            if dtype != torch.float32:
                stored.data.copy_(stored.data.to(dtype))

    def tensors(self, block: Block | None) -> dict[str, Tensor]:
        """Tensors of a loaded block, or of all that is in no block, as they belong into a file: its layers from memory,
        in the dtypes they came in, and all else as it is in the source; of a trained model all parameters from memory.
        """
        names = self.names(block)
        fresh = self._fresh(block, self._parameters(block) if self._trained else _stored(block))
        unknown = sorted(fresh.keys() - set(names))
        if unknown:
            raise CheckpointError(
                f"{self._folder}: {unknown[0]} would be written, but the checkpoint has no such weight"
            )
        tensors = self._read([name for name in names if name not in fresh])
        tensors |= {name: tensor.to("cpu", self._files.dtype(name)) for name, tensor in fresh.items()}
        return {name: tensors[name] for name in names}

    def _parameters(self, block: Block | None) -> dict[str, nn.Parameter]:
        """All parameters of a block, or of what is in no block, by their paths; of tied ones those that are on disk."""
        if block is not None:
            return {f"{block.name}.{name}": parameter for name, parameter in block.module.named_parameters()}
        blocks = tuple(f"{name}." for name in self._names if name)
        found = self._model.named_parameters(remove_duplicate=False)
        rest = {path: parameter for path, parameter in found if not path.startswith(blocks)}
        on_disk = {self._targets[name] for name in self._names[""]}
        known = {id(parameter) for path, parameter in rest.items() if path in on_disk}
        return {path: parameter for path, parameter in rest.items() if path in on_disk or id(parameter) not in known}

    def _fresh(self, block: Block | None, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """Parameters by the names that the files have for them."""
        plain = {self._targets[name]: name for name in self.names(block) if name not in self._converted}
        fresh = {plain[path]: parameter.data for path, parameter in parameters.items() if path in plain}
        merged = {path: parameter.data for path, parameter in parameters.items() if path not in plain}
        if merged:
            # Those that transformers merged when it loaded them, taken apart again.
            self._model._weight_conversions = [
                entry for entry in get_model_conversion_mapping(self._model) if isinstance(entry, WeightConverter)
            ] + self._used_renamings(block)
            fresh |= revert_weight_conversion(self._model, merged)
        return fresh

    def _used_renamings(self, block: Block | None) -> list[WeightRenaming]:
        """The renamings that did something to this block's names."""
        renamings = [entry for entry in get_model_conversion_mapping(self._model) if isinstance(entry, WeightRenaming)]
        return [
            entry for entry in renamings if any(entry.rename_source_key(name)[0] != name for name in self.names(block))
        ]

    def replace(self, block: Block | None, path: Path) -> None:
        """From now on read the tensors of a block, or of all that is in no block, from another file."""
        self._replaced |= dict.fromkeys(self.names(block), path)

    def replace_all(self, paths: Mapping[Block | None, Path]) -> None:
        """The same for all blocks, none of which is loaded, and for the rest, which is loaded again."""
        for block, path in paths.items():
            self.replace(block, path)
        self._trained = False
        self.load_rest()

    def relocate(self, before: Path, after: Path) -> None:
        """Say that a folder with such files has another name now."""
        self._replaced = {
            name: after / path.relative_to(before) if path.is_relative_to(before) else path
            for name, path in self._replaced.items()
        }


def _stored(block: Block | None) -> dict[str, nn.Parameter]:
    """The parameters that hold the weights of a block's layers, by their paths in the model; none for None."""
    layers = () if block is None else block.layers
    return {
        (layer.name if layer.expert is None else layer.name.rpartition(".")[0].rpartition(".")[0])
        + f".{layer.parameter}": layer.stored
        for layer in layers
    }


def _tensors(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """All floating parameters and persistent buffers by name."""
    return ((name, tensor) for name, tensor in module.state_dict().items() if tensor.is_floating_point())
