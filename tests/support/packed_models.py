"""Small packed models, and what tests do to their folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexcim.config.macro import MacroConfig, preset
from flexcim.config.pattern import Pattern
from flexcim.packed.cells import pack_layer
from flexcim.packed.folder import read_packed
from flexcim.packed.layer import ARRAYS, PackedLayer
from flexcim.packed.manifest import MANIFEST
from flexcim.packed.model import PackedModel
from flexcim.packed.plans import NestedPlan
from flexcim.packed.tiling import tile_layer
from tests.support.sparse_weights import random_parts, random_weights

CONFIG = preset("board")
NESTED_CONFIG = MacroConfig.from_mapping({"rows": 4, "columns": 4, "patterns": ["1:1", "2:8", "4:8"]})


def make_layer(name: str, pattern: str, outputs: int, inputs: int, activation_scale: float | None) -> PackedLayer:
    """A layer of random weights on `CONFIG`."""
    rng = np.random.default_rng(len(name))
    tiling = tile_layer(CONFIG, outputs, inputs, Pattern.parse(pattern))
    weights, offsets = pack_layer(tiling, random_weights(rng, outputs, inputs, tiling.pattern))
    return PackedLayer(
        name=name,
        tiling=tiling,
        activation_scale=activation_scale,
        weight_scales=rng.random(outputs, dtype=np.float32),
        weights=weights,
        offsets=offsets,
    )


METADATA = {"model": "größe/tiny", "sparsity": 0.5, "notes": [1, None]}
LAYER = make_layer("layers.0.q_proj", "4:8", 20, 70, 0.125)
LAYERS = (
    LAYER,
    make_layer("layers.0.up/../proj", "1:1", 9, 33, None),
    make_layer("layers.1.q_proj", "2:4", 20, 70, 1 / 3),
)
MODEL = PackedModel(CONFIG, METADATA, LAYERS)
FIRST = "0000_layers.0.q_proj.safetensors"
SECOND = "0001_layers.0.up_.._proj.safetensors"


def nested_model(
    config: MacroConfig = NESTED_CONFIG,
    patterns: Sequence[str] = ("2:8 2:8", "2:8 4:8", "4:8"),
    shape: tuple[int, int] = (9, 70),
) -> tuple[PackedModel, dict[NestedPlan, dict[str, NDArray[np.int8]]]]:
    """A model of layers with these parts, and the matrices of both plans by the layer's name."""
    rng, (outputs, inputs) = np.random.default_rng(51), shape
    layers, denser, sparser = [], {}, {}
    for name, text in zip("abcdefgh", patterns, strict=False):
        parts = tuple(map(Pattern.parse, text.split()))
        matrices = random_parts(rng, outputs, inputs, parts, config.weight_bits)
        tiling = tile_layer(config, outputs, inputs, parts[0], rest=parts[1] if len(parts) > 1 else None)
        weights, offsets = pack_layer(tiling, *matrices)
        layers.append(
            PackedLayer(
                name=name,
                tiling=tiling,
                activation_scale=None,
                weight_scales=np.ones(outputs, np.float32),
                weights=weights,
                offsets=offsets,
            )
        )
        denser[name], sparser[name] = np.stack(matrices).sum(axis=0, dtype=np.int8), matrices[0]
    return PackedModel(config, {}, layers), {NestedPlan.DENSER: denser, NestedPlan.SPARSER: sparser}


def assert_same(layer: PackedLayer, other: PackedLayer) -> None:
    """Two layers are the same, to the bit."""
    assert (layer.name, layer.tiling, layer.activation_scale) == (other.name, other.tiling, other.activation_scale)
    for name in ARRAYS:
        array, other_array = getattr(layer, name), getattr(other, name)
        assert array.dtype == other_array.dtype
        np.testing.assert_array_equal(array, other_array)


def assert_is_model(path: Path, model: PackedModel) -> None:
    """A folder holds the model."""
    read = read_packed(path)
    assert read.config == model.config
    assert read.metadata == model.metadata
    assert len(read.layers) == len(model.layers)
    for layer, other in zip(read.layers, model.layers, strict=True):
        assert_same(layer, other)


def edit(folder: Path, change: Callable[[Any], object]) -> None:
    """Change the manifest, with its checksum, as a faulty writer would."""
    document = json.loads((folder / MANIFEST).read_text())
    change(document)
    content = {key: value for key, value in document.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    if "sha256" in document:
        document["sha256"] = hashlib.sha256(text.encode("utf-8")).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(document))
