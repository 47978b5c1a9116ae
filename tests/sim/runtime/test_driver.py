"""The accelerator in this process: programs through registers and streams of simulated RTL, pauses and errors."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from flexcim.accelerator.registers import register
from flexcim.compiler.layer import compile_layer
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.packed.cells import pack_layer
from flexcim_sim.build.library import build_accelerator_library
from flexcim_sim.runtime.driver import DriverError, SimulatedAccelerator
from tests.support.sparse_weights import random_weights

pytestmark = pytest.mark.simulator

SMALL = AcceleratorConfig(
    macro=MacroConfig.from_mapping({"rows": 4, "columns": 4, "patterns": ["1:1", "2:4"], "accumulator_depth": 16}),
    macros=2,
    weight_bus=64,
    activation_bus=32,
    result_bus=64,
    activation_memory=64,
    program_depth=64,
)
"""Small enough to be built in seconds."""


@cache
def library():
    return build_accelerator_library(SMALL)


@pytest.fixture
def accelerator():
    with SimulatedAccelerator(SMALL, library()) as opened:
        yield opened


def layer_images(vectors, seed):
    """A layer of one program, its images, and its product."""
    rng = np.random.default_rng(seed)
    layer = compile_layer(SMALL, 21, 37, Pattern(2, 4), vectors)
    (program,) = layer.programs
    weights = random_weights(rng, 21, 37, Pattern(2, 4))
    activations = rng.integers(-128, 128, (vectors, 37)).astype(np.int8)
    images = layer.weight_image(*pack_layer(layer.tiling, weights)), layer.activation_image(activations)
    product = activations.astype(np.int64) @ weights.T.astype(np.int64)
    return layer, program.words(SMALL.macro), images, product


def test_layers_one_after_the_other_are_exact_in_bits_and_cycles(accelerator):
    for turn, vectors in enumerate((1, 20, 1)):
        layer, words, images, product = layer_images(vectors, 131 + turn)
        before = accelerator.cycles
        results = accelerator.execute(words, *images, limit=20_000)
        assert (layer.outputs(results) == product).all()
        assert accelerator.cycles - before == layer.cycles.cycles
        assert accelerator.read("WEIGHT_STALLS") == layer.cycles.weight_stalls


def test_pauses_change_nothing_but_the_time(accelerator):
    layer, words, images, product = layer_images(3, 134)
    accelerator.pause({"s_axis_weights": 0.5, "s_axis_activations": 0.3, "m_axis_results": 0.6}, seed=1)
    results = accelerator.execute(words, *images, limit=20_000)
    assert (layer.outputs(results) == product).all()
    assert accelerator.cycles > layer.cycles.cycles


def test_registers_are_read_and_written(accelerator):
    assert accelerator.read("PARAMETERS") == SMALL.macros | SMALL.program_depth << 8
    accelerator.write("PROGRAM_ENTRY", 7)
    assert accelerator.read("PROGRAM_ENTRY") == 7
    with pytest.raises(DriverError, match="the accelerator refused a write of ID"):
        accelerator.write("ID", 1)
    # Nothing is wrong with the next one, at an address that the refused one did not change.
    assert accelerator.read("ID") >> register("ID").fields[1].low == accelerator.read("ID") >> 16


def test_a_wrong_program_is_told(accelerator):
    _, words, images, _ = layer_images(1, 135)
    wrong = words.copy()
    wrong[0, 0] = 9
    with pytest.raises(DriverError, match="not done after 500 cycles: error instruction, at instruction"):
        accelerator.execute(wrong, *images, limit=500)


def test_words_that_are_missing_or_left_are_told(accelerator):
    _, words, (weights, activations), _ = layer_images(1, 136)
    with pytest.raises(DriverError, match="the program is done, but 2 words of weights are left"):
        accelerator.execute(words, np.concatenate([weights, weights[:2]]), activations, limit=20_000)


def test_a_program_without_its_words_is_not_done(accelerator):
    _, words, (weights, activations), _ = layer_images(1, 137)
    with pytest.raises(DriverError, match="not done after 3000 cycles: error none"):
        accelerator.execute(words, weights[:-1], activations, limit=3000)


def test_another_register_bus_is_refused():
    with pytest.raises(DriverError, match="needs register_bus = 'axi4-lite', not 'wishbone'"):
        SimulatedAccelerator(replace(SMALL, register_bus="wishbone"), library())
