"""Packed layers: what cannot be is said in one sentence, and those on demand are made one by one."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flexcim.config.pattern import Pattern
from flexcim.packed.cells import unpack_layer
from flexcim.packed.layer import LazyLayers, PackedError, PackedLayer
from flexcim.packed.model import PackedModel
from flexcim.packed.plans import NestedPlan
from flexcim.packed.tiling import tile_layer
from tests.support.packed_models import CONFIG, LAYER, make_layer, nested_model


def changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


BAD_LAYERS: dict[str, tuple[dict[str, Any], str]] = {
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


# --- Layers that are made when they are asked for --------------------------------------------------------------------


class Made(LazyLayers[PackedLayer]):
    """Layers that are there already; it notes what was asked for."""

    def __init__(self, layers):
        super().__init__(layers)
        self.made = []

    def make(self, sources):
        for source in sources:
            self.made.append(source.name)
            yield source


def test_a_layer_is_made_when_it_is_asked_for():
    model, _ = nested_model()
    layers = Made(model.layers)
    assert len(layers) == 3
    assert layers.tilings == model.tilings
    assert layers.made == []
    assert layers[1].name == layers[-2].name == "b"
    assert layers.made == ["b", "b"]
    assert [layer.name for layer in layers[1:]] == ["b", "c"]
    assert layers.made == ["b", "b", "b", "c"]
    with pytest.raises(IndexError):
        layers[3]


def test_a_plan_makes_no_layer_either():
    model, matrices = nested_model()
    layers = Made(model.layers)
    sparser = PackedModel(model.config, {}, layers).under(NestedPlan.SPARSER)
    assert sparser.tilings == {name: tiling.sparser for name, tiling in model.tilings.items()}
    assert layers.made == []
    for layer in (*sparser.layers, *sparser.layers[:1], sparser.layers[1]):
        found = unpack_layer(layer.tiling, layer.weights, layer.offsets)
        np.testing.assert_array_equal(found, matrices[NestedPlan.SPARSER][layer.name])
    assert layers[0].tiling.rest == Pattern(2, 8)
