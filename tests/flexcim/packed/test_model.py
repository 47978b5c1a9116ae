"""Packed layers in memory: what cannot be is said in one sentence."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from flexcim.config.macro import preset
from flexcim.config.pattern import Pattern
from flexcim.packed.cells import pack_layer
from flexcim.packed.folder import PackedError, PackedLayer
from flexcim.packed.tiling import tile_layer
from tests.support.sparse_weights import random_weights

CONFIG = preset("board")


def make_layer(name, pattern, outputs, inputs, activation_scale, config=CONFIG):
    pattern = Pattern.parse(pattern)
    rng = np.random.default_rng(len(name))
    tiling = tile_layer(config, outputs, inputs, pattern)
    weights, offsets = pack_layer(tiling, random_weights(rng, outputs, inputs, pattern))
    return PackedLayer(
        name=name,
        tiling=tiling,
        activation_scale=activation_scale,
        weight_scales=rng.random(outputs, dtype=np.float32),
        weights=weights,
        offsets=offsets,
    )


def changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


LAYER = make_layer("layers.0.q_proj", "4:8", 20, 70, 0.125)
BAD_LAYERS = {
    "type of weights": (
        {"weights": LAYER.weights.astype(np.int16)},
        "weights must be int8 [6, 8, 4, 8], not int16 [6, 8, 4, 8]",
    ),
    "shape of weights": ({"weights": LAYER.weights[1:]}, "weights must be int8 [6, 8, 4, 8], not int8 [5, 8, 4, 8]"),
    "shape of offsets": (
        {"offsets": LAYER.offsets[:, :, :2]},
        "offsets must be uint8 [6, 8, 4, 8], not uint8 [6, 8, 2, 8]",
    ),
    "type of scales": (
        {"weight_scales": LAYER.weight_scales.astype(np.float64)},
        "weight_scales must be float32 [20], not float64 [20]",
    ),
    "shape of scales": (
        {"weight_scales": LAYER.weight_scales[1:]},
        "weight_scales must be float32 [20], not float32 [19]",
    ),
    "offset": (
        {"offsets": changed(LAYER.offsets, (5, 1, 2, 3), 5)},
        "the offset at [tile, row, sub_macro, column] = [5, 1, 2, 3] is 5, but pattern 4:8 reaches only 4",
    ),
    "infinite scale": (
        {"weight_scales": changed(LAYER.weight_scales, 7, np.inf)},
        "weight_scales[7] must be finite and not negative, not inf",
    ),
    "negative scale": (
        {"weight_scales": changed(LAYER.weight_scales, 2, -1)},
        "weight_scales[2] must be finite and not negative, not -1.0",
    ),
    "activation scale of 0": ({"activation_scale": 0.0}, "activation_scale must be finite and positive, not 0.0"),
    "undefined activation scale": (
        {"activation_scale": float("nan")},
        "activation_scale must be finite and positive, not nan",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BAD_LAYERS.values(), ids=BAD_LAYERS)
def test_a_layer_that_cannot_be_is_refused(changes, message):
    with pytest.raises(PackedError, match=f"^{re.escape(f'layer {LAYER.name!r}: {message}')}$"):
        replace(LAYER, **changes)


def test_weights_that_do_not_fit_their_bits_are_refused():
    layer = make_layer("narrow", "1:1", 9, 33, None)
    narrow = tile_layer(replace(CONFIG, weight_bits=6), 9, 33, Pattern(1, 1))
    with pytest.raises(PackedError, match="layer 'narrow': weights must fit weight_bits = 6, not -128"):
        replace(layer, tiling=narrow)


def test_an_output_without_weights_may_have_the_scale_0():
    assert replace(LAYER, weight_scales=np.zeros(20, np.float32)).weight_scales[0] == 0
