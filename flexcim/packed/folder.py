"""A packed model on disk: one folder with a JSON manifest and, for each layer, a safetensors file of its cells."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import safetensors
import safetensors.numpy

from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.errors import FlexCiMError
from flexcim.files import new_folder
from flexcim.packed.model import ARRAYS, LazyLayers, PackedError, PackedLayer, PackedModel
from flexcim.packed.plans import NestedPlan
from flexcim.packed.tiling import LayerTiling

__all__ = [
    "MANIFEST",
    "NESTED_SCHEMA_VERSION",
    "SCHEMA_VERSION",
    "PackedError",
    "PackedLayer",
    "PackedModel",
    "read_packed",
    "read_pruned",
    "write_packed",
]

MANIFEST = "manifest.json"
"""Name of the manifest in the folder."""

SCHEMA_VERSION = 1
"""Version of the manifest's layout that this code writes and reads."""

NESTED_SCHEMA_VERSION = 2
"""The same for nested models, whose layers have one key more; readers of the other version alone refuse them."""

_PACKED = "packed"
"""The folder's name in what ``flexcim prune`` and ``nest`` write, beside ``checkpoint``."""

_FORMAT = "flexcim packed model"
_SUFFIX = ".safetensors"
_MANIFEST_KEYS: Mapping[str, type] = {
    "format": str,
    "schema_version": int,
    "sha256": str,
    "metadata": dict,
    "config": dict,
    "layers": list,
}
_LAYER_KEYS: Mapping[str, type | tuple[type, ...]] = {
    "name": str,
    "file": str,
    "sha256": str,
    "outputs": int,
    "inputs": int,
    "pattern": str,
    "groups": int,
    "reason": str,
    "tiles": int,
    "activation_scale": (float, int, type(None)),
}
_NESTED_LAYER_KEYS = {**_LAYER_KEYS, "rest": (str, type(None))}


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
    try:
        _check_replaceable(target)
        with new_folder(target) as folder:
            _write_folder(folder, model)
    except OSError as error:
        raise PackedError(f"{target}: cannot be written ({error.strerror})") from None


def _check_replaceable(target: Path) -> None:
    """Raise PackedError if something is there that is not ours to replace."""
    if not target.exists():
        return
    if not target.is_dir():
        raise PackedError(f"{target}: is a file, so no packed model can be written there")
    names = sorted(entry.name for entry in target.iterdir())
    foreign = [name for name in names if name != MANIFEST and not name.endswith(_SUFFIX)]
    if names and (foreign or not _is_ours(target / MANIFEST)):
        raise PackedError(
            f"{target}: is not empty and no packed model (it holds {(foreign or names)[0]!r}), so it is not replaced"
        )


def _is_ours(manifest: Path) -> bool:
    try:
        document = json.loads(manifest.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("format") == _FORMAT


def _write_folder(folder: Path, model: PackedModel) -> None:
    layers: list[dict[str, Any]] = []
    for index, layer in enumerate(model.layers):
        if any(layer.name == other["name"] for other in layers):
            raise PackedError(f"layer {layer.name!r} is there twice")
        if layer.tiling.config != model.config:
            raise PackedError(f"layer {layer.name!r} is tiled for another configuration than the model's")
        data = safetensors.numpy.save({name: np.ascontiguousarray(getattr(layer, name)) for name in ARRAYS})
        file = f"{index:04}_{re.sub(r'[^A-Za-z0-9._-]', '_', layer.name)[:80]}{_SUFFIX}"
        (folder / file).write_bytes(data)
        tiling = layer.tiling
        layers.append(
            {
                "name": layer.name,
                "file": file,
                "sha256": hashlib.sha256(data).hexdigest(),
                "outputs": tiling.outputs,
                "inputs": tiling.inputs,
                "pattern": str(tiling.pattern),
                "groups": tiling.groups,
                "reason": tiling.reason,
                "tiles": len(tiling.tiles),
                "activation_scale": layer.activation_scale,
                "rest": tiling.rest and str(tiling.rest),
            }
        )
    nested = any(layer["rest"] for layer in layers)
    if not nested:
        for entry in layers:
            del entry["rest"]
    document = {
        "format": _FORMAT,
        "schema_version": NESTED_SCHEMA_VERSION if nested else SCHEMA_VERSION,
        "sha256": "",
        "metadata": dict(model.metadata),
        "config": model.config.to_mapping(),
        "layers": layers,
    }
    document["sha256"] = _digest(document)
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _digest(document: Mapping[str, Any]) -> str:
    """SHA-256 of what a manifest says, its own checksum apart: as JSON in UTF-8, without spaces, the keys sorted.

    A layer's checksum guards its file; only this one sees that a layer's pattern was changed to one of equal shape.
    """
    content = {key: value for key, value in document.items() if key != "sha256"}
    # Keys that are no strings become ones on the way to the file, so they are sorted as strings here, too.
    content = json.loads(json.dumps(content, allow_nan=False))
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


# -- reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """What the manifest says of a layer."""

    name: str
    tiling: LayerTiling
    activation_scale: float | None
    file: Path
    sha256: str

    def read(self) -> PackedLayer:
        """Read and verify the layer's file.

        Raises
        ------
        PackedError
            If it is missing, not the file that was written, or holds what cannot be.
        """
        where = f"{self.file}: layer {self.name!r}"
        try:
            data = self.file.read_bytes()
        except OSError as error:
            raise PackedError(f"{where}: cannot be read ({error.strerror})") from None
        digest = hashlib.sha256(data).hexdigest()
        if digest != self.sha256:
            raise PackedError(
                f"{where}: the file is damaged or of another model, its SHA-256 is {digest}, "
                f"but the manifest says {self.sha256}"
            )
        try:
            arrays = safetensors.numpy.load(data)
        except (safetensors.SafetensorError, ValueError, KeyError) as error:
            raise PackedError(f"{where}: is no safetensors file ({error})") from None
        if set(arrays) != set(ARRAYS):
            raise PackedError(f"{where}: must hold {', '.join(ARRAYS)}, not {', '.join(sorted(arrays)) or 'nothing'}")
        try:
            return PackedLayer(name=self.name, tiling=self.tiling, activation_scale=self.activation_scale, **arrays)
        except PackedError as error:
            raise PackedError(f"{self.file}: {error}") from None


class _StoredLayers(LazyLayers):
    """Layers of a packed model on disk; each access reads one."""

    def __init__(self, entries: tuple[_Entry, ...], plan: NestedPlan = NestedPlan.DENSER) -> None:
        self._entries, self._plan = entries, plan

    @property
    def tilings(self) -> dict[str, LayerTiling]:
        sparser = self._plan is NestedPlan.SPARSER
        return {entry.name: entry.tiling.sparser if sparser else entry.tiling for entry in self._entries}

    def under(self, plan: NestedPlan) -> _StoredLayers:
        return _StoredLayers(self._entries, plan)

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> PackedLayer: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PackedLayer]: ...
    def __getitem__(self, index: int | slice) -> PackedLayer | Sequence[PackedLayer]:
        if isinstance(index, slice):
            return _StoredLayers(self._entries[index], self._plan)
        return self._entries[index].read().under(self._plan)


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
    manifest = Path(path) / MANIFEST
    try:
        text = manifest.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise _absent(Path(path)) from None
    except OSError as error:
        raise PackedError(f"{manifest}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise PackedError(f"{manifest}: is no JSON ({error})") from None
    try:
        document = json.loads(text)
    except RecursionError:
        raise PackedError(f"{manifest}: is no JSON that can be read, its brackets are nested too deeply") from None
    except ValueError as error:  # no JSON, or an integer of thousands of digits
        raise PackedError(f"{manifest}: is no JSON ({error})") from None
    # The version first: another one may have other keys.
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise PackedError(f"{manifest}: is no manifest of a packed model (its 'format' is not {_FORMAT!r})")
    version = document.get("schema_version")
    if version not in (SCHEMA_VERSION, NESTED_SCHEMA_VERSION):
        raise PackedError(
            f"{manifest}: has schema version {version!r}, "
            f"but this FlexCiM reads {SCHEMA_VERSION} and {NESTED_SCHEMA_VERSION}"
        )
    _check_keys(str(manifest), document, _MANIFEST_KEYS)
    digest = _digest(document)
    if digest != document["sha256"]:
        raise PackedError(
            f"{manifest}: was changed after it was written, its SHA-256 is {digest}, but it says {document['sha256']}"
        )
    config = _read_config(manifest, document["config"])
    entries: list[_Entry] = []
    for index, layer in enumerate(document["layers"]):
        entry = _read_entry(manifest, index, layer, config, nested=version == NESTED_SCHEMA_VERSION)
        if any(entry.name == other.name for other in entries):
            raise PackedError(f"{manifest}: layer {entry.name!r} is there twice")
        entries.append(entry)
    return PackedModel(config, document["metadata"], _StoredLayers(tuple(entries)))


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


def _check_keys(where: str, values: Mapping[str, Any], keys: Mapping[str, type | tuple[type, ...]]) -> None:
    """Raise PackedError unless exactly these keys are there, each with a value of its type."""
    for key, kind in keys.items():
        if key not in values:
            raise PackedError(f"{where}: the key {key!r} is missing")
        # JSON's true and false are integers to Python.
        if not isinstance(values[key], kind) or isinstance(values[key], bool):
            raise PackedError(f"{where}: {key!r} has a value of the wrong type, {values[key]!r}")
    unknown = sorted(set(values) - set(keys))
    if unknown:
        raise PackedError(f"{where}: unknown key {unknown[0]!r}")


def _read_config(manifest: Path, values: dict[str, Any]) -> MacroConfig:
    """The configuration; all its parameters must be given, since defaults may change with the version."""
    try:
        config = MacroConfig.from_mapping(values)
    except FlexCiMError as error:
        raise PackedError(f"{manifest}: config: {error}") from None
    missing = [key for key in config.to_mapping() if key not in values]
    if missing:
        raise PackedError(f"{manifest}: config: the key {missing[0]!r} is missing")
    return config


def _read_entry(manifest: Path, index: int, values: Any, config: MacroConfig, *, nested: bool) -> _Entry:
    where = f"{manifest}: layer {index}"
    if not isinstance(values, dict):
        raise PackedError(f"{where} must be an object, not {values!r}")
    if isinstance(values.get("name"), str):
        where = f"{manifest}: layer {values['name']!r}"
    _check_keys(where, values, _NESTED_LAYER_KEYS if nested else _LAYER_KEYS)
    if Path(values["file"]).name != values["file"] or not values["file"].endswith(_SUFFIX):
        raise PackedError(f"{where}: 'file' must be a {_SUFFIX} file beside the manifest, not {values['file']!r}")
    try:
        tiling = LayerTiling(
            config,
            values["outputs"],
            values["inputs"],
            Pattern.parse(values["pattern"]),
            values["groups"],
            values["reason"],
            Pattern.parse(values["rest"]) if values.get("rest") is not None else None,
        )
    except ValueError as error:
        raise PackedError(f"{where}: {error}") from None
    if values["tiles"] != len(tiling.tiles):
        raise PackedError(f"{where}: 'tiles' is {values['tiles']}, but its shape and groups make {len(tiling.tiles)}")
    scale = values["activation_scale"]
    try:
        activation_scale = None if scale is None else float(scale)
    except OverflowError:
        raise PackedError(f"{where}: 'activation_scale' is too large, {scale}") from None
    return _Entry(
        values["name"],
        tiling,
        activation_scale,
        manifest.parent / values["file"],
        values["sha256"],
    )
