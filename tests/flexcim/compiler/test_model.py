"""Compiled models: layers that stay on the chip where that is faster, and images of layers packed for other macros."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flexcim.accelerator.bus_words import tile_words
from flexcim.compiler.layer import compile_layer
from flexcim.compiler.mapping import CompileError
from flexcim.compiler.model import LayerShape, compile_model, layer_cells, layer_shapes
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.packed.cells import pack_layer, unpack_layer
from flexcim.packed.layer import PackedLayer
from flexcim.packed.model import PackedModel
from flexcim.packed.tiling import LayerTiling
from flexcim_sim.golden.accelerator import GoldenAccelerator, WordStream
from tests.support.accelerators import ACCELERATORS
from tests.support.sparse_weights import random_weights

DENSE, SPARSE = Pattern(1, 1), Pattern(2, 4)
CONFIG = ACCELERATORS["three macros, narrow buses"]
SHAPES = [LayerShape("a", 30, 40, SPARSE), LayerShape("b", 4, 30, SPARSE), LayerShape("c", 7, 16, DENSE)]


def packed_model(macro, shapes, rng):
    """Random layers, and their matrices."""
    layers, matrices = [], {}
    for shape in shapes:
        tiling = LayerTiling(macro, shape.outputs, shape.inputs, shape.pattern, 1, "a test")
        matrices[shape.name] = random_weights(rng, shape.outputs, shape.inputs, shape.pattern, macro.weight_bits)
        weights, offsets = pack_layer(tiling, matrices[shape.name])
        scales = np.ones(shape.outputs, np.float32)
        layers.append(
            PackedLayer(
                name=shape.name,
                tiling=tiling,
                activation_scale=None,
                weight_scales=scales,
                weights=weights,
                offsets=offsets,
            )
        )
    return PackedModel(macro, {"model": "a test"}, layers), matrices


@pytest.mark.parametrize("vectors", [1, 5])
@pytest.mark.parametrize("banks", [1, 2, 4])
def test_passes_over_a_model_are_the_integer_products(vectors, banks):
    """Twice over all layers: what stays on the chip does not disturb what streams."""
    rng = np.random.default_rng([111, vectors, banks])
    config = replace(CONFIG, macro=replace(CONFIG.macro, banks=banks))
    model, matrices = packed_model(config.macro, SHAPES, rng)
    layers = compile_model(config, layer_shapes(model, config), vectors)
    resident = [name for name, layer in layers.items() if layer.resident]
    assert bool(resident) == (banks == 4)
    golden = GoldenAccelerator(config)
    nothing = WordStream(np.zeros((0, config.weight_bus // 8), np.uint8))
    images = {
        layer.name: layers[layer.name].weight_image(*layer_cells(layer, layers[layer.name])) for layer in model.layers
    }
    for name, layer in layers.items():
        stream = WordStream(images[name])
        for program in layer.loading:
            golden.execute(program.words(config.macro), stream, nothing)
    for _ in range(2):
        for name, layer in layers.items():
            activations = rng.integers(-128, 128, (vectors, layer.tiling.inputs)).astype(np.int8)
            weights = nothing if layer.resident else WordStream(images[name])
            vectors_in = WordStream(layer.activation_image(activations))
            parts = [golden.execute(one.words(config.macro), weights, vectors_in).results for one in layer.programs]
            product = activations.astype(np.int64) @ matrices[name].T.astype(np.int64)
            assert (layer.outputs(np.concatenate(parts)) == product).all()
    assert not golden.error


def test_a_model_that_fits_stays_as_a_whole():
    config = replace(CONFIG, macro=replace(CONFIG.macro, banks=8))
    shapes = [LayerShape(name, 12, 16, DENSE) for name in "abcdefgh"]
    layers = compile_model(config, shapes, 1)
    assert all(layer.resident for layer in layers.values())
    places = [(load.macro, load.bank) for layer in layers.values() for load in layer.schedule.loading]
    assert len(places) == len(set(places)) == 24


def test_nothing_stays_where_that_slows_the_others():
    """With one bank less, loads cannot hide behind long runs any more."""
    config = AcceleratorConfig(macro=CONFIG.macro, weight_bus=32)
    shapes = [LayerShape("large", 200, 64, DENSE), LayerShape("small", 1, 1, DENSE)]
    layers = compile_model(config, shapes, 8)
    assert not any(layer.resident for layer in layers.values())


def test_a_layer_is_placed_again_for_another_macro():
    rng = np.random.default_rng(112)
    model, matrices = packed_model(MacroConfig(), SHAPES, rng)
    config = AcceleratorConfig(macro=MacroConfig(rows=8, columns=16, patterns=(DENSE,)))
    for shape, packed in zip(layer_shapes(model, config), model.layers, strict=True):
        assert shape.pattern == DENSE
        layer = compile_layer(config, shape.outputs, shape.inputs, shape.pattern, 2)
        cells = layer_cells(packed, layer)
        assert (unpack_layer(layer.tiling, *cells) == matrices[shape.name]).all()
        words = sum(tile_words(config, layer.tiling.tiles[place].rows) for place in layer.schedule.tiles)
        assert len(layer.weight_image(*cells)) == words


def test_what_cannot_run_is_told():
    model, _ = packed_model(MacroConfig(), SHAPES, np.random.default_rng(113))
    only = AcceleratorConfig(macro=MacroConfig(patterns=(Pattern(1, 2),)))
    message = "layer 'a': pattern 2:4 is not on the menu 1:2, and neither is 1:1, which can hold it"
    with pytest.raises(CompileError, match=message):
        layer_shapes(model, only)
    narrow = AcceleratorConfig(macro=MacroConfig(weight_bits=4))
    with pytest.raises(CompileError, match="the model is packed for weight_bits = 8, but the accelerator has 4"):
        layer_shapes(model, narrow)
    with pytest.raises(CompileError, match="layer 'x': a layer must multiply at least one vector, not 0"):
        compile_model(CONFIG, [LayerShape("x", 4, 4, DENSE)], 0)
    with pytest.raises(CompileError, match=r"layer 'x': a layer of .* inputs keeps .* could add up to"):
        compile_model(CONFIG, [LayerShape("x", 4, 200_000, DENSE)], 1)
