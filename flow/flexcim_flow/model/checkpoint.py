"""Checkpoints in Hugging Face format: read from a local folder, block by block if wanted, checked, and written back."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from flexcim import files
from flexcim.quiet import quiet
from flexcim_flow.model.blocks import Block, find_blocks
from flexcim_flow.model.tensors import INDEX, SINGLE, CheckpointError, TensorFiles, shard_name, write_tensors
from flexcim_flow.model.weights import Weights

__all__ = ["Checkpoint", "CheckpointError", "load_checkpoint"]

_SINGLE_FILE_BYTES = 256 << 20
"""A pruned checkpoint up to this size is one file; a larger one has a file for each block and one for the rest."""

_COMPANIONS = (".jinja", ".json", ".model", ".txt")
"""What belongs to a checkpoint besides its weights: configuration, tokenizer, vocabulary, preprocessing."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model of the Hugging Face kind on disk and, as far as it is loaded, in memory.

    Parameters
    ----------
    folder : Path
        Where it came from.
    model : PreTrainedModel
        The model, in float32 and in evaluation mode, on the CPU but for its blocks.
    blocks : tuple of Block
        Its stack. The blocks of a streamed checkpoint are in memory only while they are `Block.loaded`.
    tokenizer : PreTrainedTokenizerBase or None
        Its tokenizer; None for a model that reads no text.
    weights : Weights
        Its weights on disk.
    """

    folder: Path
    model: PreTrainedModel
    blocks: tuple[Block, ...]
    tokenizer: PreTrainedTokenizerBase | None
    weights: Weights

    @property
    def name(self) -> str:
        """Name of the folder that it came from."""
        return self.folder.resolve().name

    @property
    def context(self) -> int | None:
        """Tokens that the model can see at once, if its configuration limits them."""
        return getattr(self.model.config, "max_position_embeddings", None)

    def settle(self, block: Block) -> None:
        """Give the weights of a loaded block's layers the values that they have on disk: rounded to their dtypes there.

        Called after a block is pruned and before its outputs are used, so that what is measured is what will be saved,
        and a run that is resumed from disk sees the same numbers.
        """
        self.weights.round(block)

    def store(self, block: Block, folder: Path) -> None:
        """Write a loaded block's shard into a folder, from which the block is loaded from now on.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        path = self.shard(block, folder)
        write_tensors(path, self.weights.tensors(block))
        self.weights.replace(block, path)

    def resume(self, block: Block, folder: Path) -> bool:
        """Load a block from the shard that an earlier run has stored in a folder; False if there is none."""
        path = self.shard(block, folder)
        if path.exists():
            self.weights.replace(block, path)
        return path.exists()

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Have all blocks in memory for as long as the context is open."""
        with contextlib.ExitStack() as stack:
            for block in self.blocks:
                stack.enter_context(block.loaded())
            yield

    def settle_trained(self) -> None:
        """`settle` for all parameters of a model that was trained in place; `whole` must be open.

        From now on the checkpoint is written with all of them as they are in memory, until `resume_trained`.
        """
        self.weights.settle_trained(self.blocks)

    def store_trained(self, folder: Path) -> None:
        """Write the shards of a model that was trained, and settled, into a folder; `whole` must be open.

        Raises
        ------
        OSError
            If one cannot be written.
        """
        for block in (*self.blocks, None):
            write_tensors(self.shard(block, folder), self.weights.tensors(block))

    def resume_trained(self, folder: Path) -> None:
        """Load everything from the shards of `store_trained` from now on."""
        self.weights.replace_all({block: self.shard(block, folder) for block in (*self.blocks, None)})

    def shard(self, block: Block | None, folder: Path) -> Path:
        """Name of a block's shard, or that of the rest for None."""
        index = len(self.blocks) if block is None else self.blocks.index(block)
        return folder / shard_name(index, len(self.blocks) + 1)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the checkpoint as it is now, so that plain transformers loads it.

        All tensors keep the names and dtypes that they came with; only those of the blocks' linear layers can differ
        from the source, or all parameters if the model was trained. Shards that are already in the folder are taken as
        they are.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        target = Path(folder)
        target.mkdir(exist_ok=True)
        if self.weights.size() <= _SINGLE_FILE_BYTES:
            self._save_single(target)
        else:
            self._save_shards(target)
        for path in sorted(self.folder.iterdir()):
            if path.suffix in _COMPANIONS and not path.name.endswith(".index.json") and path.is_file():
                shutil.copyfile(path, target / path.name)

    def _save_single(self, target: Path) -> None:
        tensors = self.weights.tensors(None)
        for block in self.blocks:
            with block.loaded():
                tensors |= self.weights.tensors(block)
        write_tensors(target / SINGLE, tensors)
        for part in (*self.blocks, None):
            self._now_in(part, target / SINGLE)
            self.shard(part, target).unlink(missing_ok=True)

    def _now_in(self, block: Block | None, path: Path) -> None:
        """Read a part of a streamed checkpoint from a new file; one that stays in memory needs none."""
        if any(block.store is not None for block in self.blocks):
            self.weights.replace(block, path)

    def _save_shards(self, target: Path) -> None:
        places: dict[str, str] = {}
        for block in (*self.blocks, None):
            path = self.shard(block, target)
            if not path.exists():
                with contextlib.nullcontext() if block is None else block.loaded():
                    write_tensors(path, self.weights.tensors(block))
            self._now_in(block, path)
            places |= dict.fromkeys(self.weights.names(block), path.name)
        index = {"metadata": {"total_size": self.weights.size()}, "weight_map": dict(sorted(places.items()))}
        files.write_text(target / INDEX, json.dumps(index, indent=2) + "\n")


def load_checkpoint(
    folder: str | os.PathLike[str], *, streamed: bool = False, device: torch.device | str = "cpu"
) -> Checkpoint:
    """Read a model and its tokenizer from a local folder; nothing is ever downloaded.

    Parameters
    ----------
    folder : path
        The folder.
    streamed : bool
        Leave the weights of the blocks on disk until a block is `Block.loaded`.
    device : torch.device or str
        Where blocks are computed.

    Raises
    ------
    CheckpointError
        If the folder is missing or unreadable, holds no model that can be pruned or not all of its weights, a weight is
        not finite, or there is no tokenizer.
    ModelError
        If the model has no stack of blocks with linear layers.
    """
    path = Path(folder)
    _check_folder(path)
    with quiet():
        try:
            config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise _unreadable(path, "its config.json", error) from error
        kind = _model_class(path, config)
        if getattr(config, "quantization_config", None) is not None:
            raise CheckpointError(f"{path}: its weights are quantised already, but only plain ones can be pruned")
        try:
            model = _empty_model(kind, config)
        except Exception as error:
            raise _unreadable(path, "its config.json", error) from error
        tensors = TensorFiles(path)
        found = find_blocks(model)
        weights = Weights(model, {block.name: block.module for block in found}, tensors, torch.device(device))
        blocks = tuple(replace(block, store=weights) for block in found)
        weights.load_rest()
        if not streamed:
            for block in blocks:
                weights.load(block)
        tokenizer = _tokenizer(path) if model.main_input_name == "input_ids" else None
    return Checkpoint(path, model, blocks if streamed else found, tokenizer, weights)


def _empty_model(kind: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    """The model without weights, in evaluation mode; what is computed from the configuration alone is there."""
    if hasattr(config, "rescale_every"):
        # RWKV halves hidden states and weights every few blocks, so that half precision does not overflow. In float32
        # that changes nothing but the weights on the way to the disk.
        config.rescale_every = 0
    with torch.device("meta"):
        # CPUs calculate in float32 fastest, and the scores need its range; half precision comes back unchanged. Experts
        # are run one by one ("eager"), where the tokens of each can be seen.
        model = kind._from_config(config, dtype=torch.float32, experts_implementation="eager")
    for name, buffer in model.named_buffers():
        module_path, _, attribute = name.rpartition(".")
        module = model.get_submodule(module_path)
        if attribute in module._non_persistent_buffers_set:
            setattr(module, attribute, torch.empty_like(buffer, device="cpu"))
    with torch.no_grad():
        model.initialize_weights()  # touches nothing that is on the meta device
    return model.eval().requires_grad_(False)


def _tokenizer(path: Path) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise _unreadable(path, "its tokenizer", error) from error


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


_TASKS = (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING)


def _model_class(path: Path, config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class that the checkpoint was saved from, if it is of a kind that can be calibrated."""
    wanted = config.architectures
    for mapping in _TASKS:
        classes = mapping.get(type(config), ())
        for kind in classes if isinstance(classes, tuple) else (classes,):
            if kind.__name__ in (wanted or [kind.__name__]):
                return kind
    name = ", ".join(wanted or [config.model_type])
    raise CheckpointError(f"{path}: {name} is no causal or masked language model and no image classifier")


def _unreadable(path: Path, what: str, error: Exception) -> CheckpointError:
    # transformers raises errors of many classes, some with paragraphs of advice for people who are online.
    reason = textwrap.shorten(str(error), 200, placeholder=" ...")
    return CheckpointError(f"{path}: {what} cannot be loaded ({reason})")
