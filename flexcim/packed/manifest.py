"""The manifest of a packed model: what it says of the model and its layers, as JSON with a checksum of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.errors import FlexCiMError
from flexcim.packed.layer import PackedError
from flexcim.packed.tiling import LayerTiling

__all__ = [
    "LAYER_SUFFIX",
    "MANIFEST",
    "NESTED_SCHEMA_VERSION",
    "SCHEMA_VERSION",
    "Entry",
    "Manifest",
    "is_manifest",
    "read_manifest",
]

MANIFEST = "manifest.json"
"""Name of the manifest in the folder."""

LAYER_SUFFIX = ".safetensors"
"""How the names of the layers' files end."""

SCHEMA_VERSION = 1
"""Version of the manifest's layout that this code writes and reads."""

NESTED_SCHEMA_VERSION = 2
"""The same for nested models, whose layers have one key more; readers of the other version alone refuse them."""

_FORMAT = "flexcim packed model"
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


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the manifest says of a layer.

    Parameters
    ----------
    name : str
        The layer's name in the model.
    tiling : LayerTiling
        Its shape, patterns, groups and the reason for them.
    activation_scale : float or None
        Calibrated scale of its activations, or None where each token gets its own.
    file : str
        Name of its file beside the manifest.
    sha256 : str
        Checksum of that file, in hexadecimal.
    """

    name: str
    tiling: LayerTiling
    activation_scale: float | None
    file: str
    sha256: str

    def to_mapping(self, *, nested: bool) -> dict[str, Any]:
        """The entry as JSON holds it; in a nested model with its ``rest``, if only to say that it has none."""
        tiling = self.tiling
        values: dict[str, Any] = {
            "name": self.name,
            "file": self.file,
            "sha256": self.sha256,
            "outputs": tiling.outputs,
            "inputs": tiling.inputs,
            "pattern": str(tiling.pattern),
            "groups": tiling.groups,
            "reason": tiling.reason,
            "tiles": len(tiling.tiles),
            "activation_scale": self.activation_scale,
        }
        return values | {"rest": tiling.rest and str(tiling.rest)} if nested else values


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a packed model's folder holds.

    Parameters
    ----------
    config : MacroConfig
        The macro.
    metadata : mapping
        What JSON can hold.
    entries : tuple of Entry
        The layers in the model's order.
    """

    config: MacroConfig
    metadata: Mapping[str, Any]
    entries: tuple[Entry, ...]

    def to_json(self) -> str:
        """The manifest's text, with its checksum.

        Raises
        ------
        TypeError, ValueError
            If the metadata are nothing that JSON can hold.
        """
        nested = any(entry.tiling.rest is not None for entry in self.entries)
        document = {
            "format": _FORMAT,
            "schema_version": NESTED_SCHEMA_VERSION if nested else SCHEMA_VERSION,
            "sha256": "",
            "metadata": dict(self.metadata),
            "config": self.config.to_mapping(),
            "layers": [entry.to_mapping(nested=nested) for entry in self.entries],
        }
        document["sha256"] = _digest(document)
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _digest(document: Mapping[str, Any]) -> str:
    """SHA-256 of what a manifest says, its own checksum apart: as JSON in UTF-8, without spaces, the keys sorted.

    A layer's checksum guards its file; only this one sees that a layer's pattern was changed to one of equal shape.
    """
    content = {key: value for key, value in document.items() if key != "sha256"}
    # Keys that are no strings become ones on the way to the file, so they are sorted as strings here, too.
    content = json.loads(json.dumps(content, allow_nan=False))
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def is_manifest(path: Path) -> bool:
    """Whether a file is the manifest of a packed model, whatever else it says."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("format") == _FORMAT


def read_manifest(path: Path) -> Manifest:
    """Read and verify a manifest; the layers' files are not looked at.

    Parameters
    ----------
    path : Path
        The manifest itself.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If it is not there.
    PackedError
        If it cannot be read, is no JSON, of another schema version, lacks a key or has an unknown one, is not what was
        written, or says what cannot be; the message names the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise PackedError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise PackedError(f"{path}: is no JSON ({error})") from None
    try:
        document = json.loads(text)
    except RecursionError:
        raise PackedError(f"{path}: is no JSON that can be read, its brackets are nested too deeply") from None
    except ValueError as error:  # no JSON, or an integer of thousands of digits
        raise PackedError(f"{path}: is no JSON ({error})") from None
    # The version first: another one may have other keys.
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise PackedError(f"{path}: is no manifest of a packed model (its 'format' is not {_FORMAT!r})")
    version = document.get("schema_version")
    if version not in (SCHEMA_VERSION, NESTED_SCHEMA_VERSION):
        raise PackedError(
            f"{path}: has schema version {version!r}, "
            f"but this FlexCiM reads {SCHEMA_VERSION} and {NESTED_SCHEMA_VERSION}"
        )
    _check_keys(str(path), document, _MANIFEST_KEYS)
    digest = _digest(document)
    if digest != document["sha256"]:
        raise PackedError(
            f"{path}: was changed after it was written, its SHA-256 is {digest}, but it says {document['sha256']}"
        )
    config = _read_config(path, document["config"])
    entries: list[Entry] = []
    for index, layer in enumerate(document["layers"]):
        entry = _read_entry(path, index, layer, config, nested=version == NESTED_SCHEMA_VERSION)
        if any(entry.name == other.name for other in entries):
            raise PackedError(f"{path}: layer {entry.name!r} is there twice")
        entries.append(entry)
    return Manifest(config=config, metadata=document["metadata"], entries=tuple(entries))


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


def _read_config(path: Path, values: dict[str, Any]) -> MacroConfig:
    """The configuration; all its parameters must be given, since defaults may change with the version."""
    try:
        config = MacroConfig.from_mapping(values)
    except FlexCiMError as error:
        raise PackedError(f"{path}: config: {error}") from None
    missing = [key for key in config.to_mapping() if key not in values]
    if missing:
        raise PackedError(f"{path}: config: the key {missing[0]!r} is missing")
    return config


def _read_entry(path: Path, index: int, values: Any, config: MacroConfig, *, nested: bool) -> Entry:
    where = f"{path}: layer {index}"
    if not isinstance(values, dict):
        raise PackedError(f"{where} must be an object, not {values!r}")
    if isinstance(values.get("name"), str):
        where = f"{path}: layer {values['name']!r}"
    _check_keys(where, values, _NESTED_LAYER_KEYS if nested else _LAYER_KEYS)
    if Path(values["file"]).name != values["file"] or not values["file"].endswith(LAYER_SUFFIX):
        raise PackedError(f"{where}: 'file' must be a {LAYER_SUFFIX} file beside the manifest, not {values['file']!r}")
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
    return Entry(
        name=values["name"],
        tiling=tiling,
        activation_scale=activation_scale,
        file=values["file"],
        sha256=values["sha256"],
    )
