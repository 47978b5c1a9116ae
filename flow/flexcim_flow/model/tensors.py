"""Files of tensors: safetensors, one or many with an index, and PyTorch's own; read lazily, written whole."""

from __future__ import annotations

import contextlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flexcim.errors import FlexCiMError

__all__ = ["INDEX", "SINGLE", "CheckpointError", "TensorFiles", "shard_name", "write_tensors"]

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
    folder : Path
        The folder.
    places : dict
        The file of each tensor.

    Raises
    ------
    CheckpointError
        If there is no such file, one is missing, or one cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places: dict[str, Path] = {}
        self._facts: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        for path in self._files():
            try:
                with _WeightFile(path) as file:
                    for name in file.names():
                        self.places[name] = path
                        self._facts[name] = file.facts(name)
            except Exception as error:
                raise CheckpointError(f"{folder}: its weights cannot be loaded ({path.name}: {error})") from error

    def _files(self) -> list[Path]:
        for single in (SINGLE, "pytorch_model.bin"):
            index = self.folder / f"{single}.index.json"
            if index.exists():
                try:
                    names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
                except (OSError, ValueError, LookupError, TypeError, AttributeError):
                    raise CheckpointError(f"{index}: cannot be read as an index of weight files") from None
                return [self.folder / name for name in names]
            if (self.folder / single).exists():
                return [self.folder / single]
        raise CheckpointError(
            f"{self.folder}: its weights cannot be loaded (there is no {SINGLE}, no {INDEX} and no pytorch_model.bin)"
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

    def read(self, names: Iterable[str], instead: Mapping[str, Path] = MappingProxyType({})) -> dict[str, Tensor]:
        """Read tensors, some of them instead from other files; their memory is mapped, and read when it is used."""
        by_path: defaultdict[Path, list[str]] = defaultdict(list)
        for name in names:
            by_path[instead.get(name, self.places[name])].append(name)
        tensors: dict[str, Tensor] = {}
        for path, inside in by_path.items():
            with _WeightFile(path) as file:
                tensors |= {name: file.tensor(name) for name in inside}
        return tensors


class _WeightFile:
    """A weight file of either format; a context in which it is open."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _WeightFile:
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
