"""A packed model on disk: one folder with a JSON manifest and, for each layer, a safetensors file of its cells."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from flexcim.files import new_folder, numbered_stem, writing
from flexcim.packed.layer import ARRAYS, LazyLayers, PackedError, PackedLayer
from flexcim.packed.manifest import LAYER_SUFFIX, MANIFEST, Entry, Manifest, is_manifest, read_manifest
from flexcim.packed.model import PackedModel

__all__ = ["read_packed", "read_pruned", "write_packed"]

_PACKED = "packed"
"""The folder's name in what ``flexcim prune`` and ``nest`` write, beside ``checkpoint``."""


# -- writing -----------------------------------------------------------------------------------------------------------


def write_packed(path: str | os.PathLike[str], model: PackedModel) -> None:
    """Write a packed model as a folder, which appears whole or not at all.

    Parameters
    ----------
    path : path
        The folder. It may be absent, empty, or hold a packed model, which is replaced.
    model : PackedModel
        The model; its layers are taken one after the other.

    Raises
    ------
    PackedError
        If the folder holds something else or cannot be written, two layers have one name, or a layer is tiled for
        another configuration.
    TypeError, ValueError
        If the metadata is nothing that JSON can hold.
    """
    target = Path(path).resolve()
    with writing(target, PackedError):
        _check_replaceable(target)
        with new_folder(target) as folder:
            _write_folder(folder, model)


def _check_replaceable(target: Path) -> None:
    """Raise PackedError if something is there that is not ours to replace."""
    if not target.exists():
        return
    if not target.is_dir():
        raise PackedError(f"{target}: is a file, so no packed model can be written there")
    names = sorted(entry.name for entry in target.iterdir())
    foreign = [name for name in names if name != MANIFEST and not name.endswith(LAYER_SUFFIX)]
    if names and (foreign or not is_manifest(target / MANIFEST)):
        raise PackedError(
            f"{target}: is not empty and no packed model (it holds {(foreign or names)[0]!r}), so it is not replaced"
        )


def _write_folder(folder: Path, model: PackedModel) -> None:
    entries: list[Entry] = []
    for index, layer in enumerate(model.layers):
        if any(layer.name == other.name for other in entries):
            raise PackedError(f"layer {layer.name!r} is there twice")
        if layer.tiling.config != model.config:
            raise PackedError(f"layer {layer.name!r} is tiled for another configuration than the model's")
        data = safetensors.numpy.save({name: np.ascontiguousarray(getattr(layer, name)) for name in ARRAYS})
        file = f"{numbered_stem(index, layer.name)}{LAYER_SUFFIX}"
        (folder / file).write_bytes(data)
        entries.append(
            Entry(
                name=layer.name,
                tiling=layer.tiling,
                activation_scale=layer.activation_scale,
                file=file,
                sha256=hashlib.sha256(data).hexdigest(),
            )
        )
    manifest = Manifest(config=model.config, metadata=model.metadata, entries=tuple(entries))
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


# -- reading -----------------------------------------------------------------------------------------------------------


class _StoredLayers(LazyLayers[Entry]):
    """Layers of a packed model on disk; each access reads and verifies the layer's file."""

    def __init__(self, folder: Path, entries: Sequence[Entry]) -> None:
        super().__init__(entries)
        self._folder = folder

    def make(self, sources: Sequence[Entry]) -> Iterator[PackedLayer]:
        return (_read_layer(self._folder / entry.file, entry) for entry in sources)


def _read_layer(file: Path, entry: Entry) -> PackedLayer:
    """Read a layer's file.

    Raises
    ------
    PackedError
        If it is missing, not the one that was written, or holds what cannot be; the message names file and layer.
    """
    where = f"{file}: layer {entry.name!r}"
    try:
        data = file.read_bytes()
    except OSError as error:
        raise PackedError(f"{where}: cannot be read ({error.strerror})") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry.sha256:
        raise PackedError(
            f"{where}: the file is damaged or of another model, its SHA-256 is {digest}, "
            f"but the manifest says {entry.sha256}"
        )
    try:
        arrays = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise PackedError(f"{where}: is no safetensors file ({error})") from None
    if set(arrays) != set(ARRAYS):
        raise PackedError(f"{where}: must hold {', '.join(ARRAYS)}, not {', '.join(sorted(arrays)) or 'nothing'}")
    try:
        return PackedLayer(name=entry.name, tiling=entry.tiling, activation_scale=entry.activation_scale, **arrays)
    except PackedError as error:
        raise PackedError(f"{file}: {error}") from None


def read_packed(path: str | os.PathLike[str]) -> PackedModel:
    """Open a packed model: the manifest is read and verified now, each layer's file when the layer is asked for.

    Parameters
    ----------
    path : path
        The folder.

    Raises
    ------
    PackedError
        If the folder or the manifest is missing, or the manifest is no JSON, of another schema version, lacks a key or
        has an unknown one, is not what was written, or says what cannot be. `PackedModel.layers` raises it for a
        layer's file.
    """
    folder = Path(path)
    try:
        manifest = read_manifest(folder / MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        raise _absent(folder) from None
    return PackedModel(manifest.config, manifest.metadata, _StoredLayers(folder, manifest.entries))


def read_pruned(path: str | os.PathLike[str]) -> PackedModel:
    """Open the packed model in a folder that ``flexcim prune`` or ``nest`` wrote, as `read_packed` does.

    Parameters
    ----------
    path : path
        The folder, which holds ``packed`` beside ``checkpoint``.

    Raises
    ------
    PackedError
        If the folder is missing or holds no packed model, or that cannot be read.
    """
    folder = Path(path)
    if folder.is_dir() and not (folder / _PACKED).is_dir():
        meant = f"; was {folder.parent} meant?" if (folder / MANIFEST).is_file() else ""
        raise PackedError(f"{folder}: has no folder {_PACKED!r}, so flexcim prune or nest did not write it{meant}")
    return read_packed(folder / _PACKED if folder.is_dir() else folder)


def _absent(folder: Path) -> PackedError:
    """What is wrong with a folder that has no manifest."""
    if not folder.exists():
        return PackedError(f"{folder}: there is no such folder")
    if not folder.is_dir():
        return PackedError(f"{folder}: is a file, but a packed model is a folder")
    meant = f"; was {folder / _PACKED} meant?" if (folder / _PACKED / MANIFEST).is_file() else ""
    return PackedError(f"{folder}: is no packed model, it has no {MANIFEST}{meant}")
