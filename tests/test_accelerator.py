"""The accelerator's core in Amaranth's simulator: bit exact by the golden accelerator, cycle exact by the cycle model.

The generated Verilog of all instances is tested through its ports in tests/test_accelerator_bench.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from flexcim.accelerator_cycles import AcceleratorTiming, stall_pattern
from flexcim.compiler.layer import compile_layer
from flexcim.tiling import pack_layer
from sim.bench.accelerator_stimulus import RandomPrograms
from sim.golden.accelerator import GoldenAccelerator, WordStream
from tests.accelerators import ACCELERATORS, play, program_stimuli
from tests.sparse_weights import random_weights

STREAMS = ("weights", "activations", "results")
QUICK = ["one bank, parallel"]
OTHERS = [name for name in ACCELERATORS if name not in QUICK]
for_each_accelerator = pytest.mark.parametrize(
    "config",
    [ACCELERATORS[name] for name in QUICK]
    + [pytest.param(ACCELERATORS[name], marks=pytest.mark.regression) for name in OTHERS],
    ids=[*QUICK, *OTHERS],
)


def random_stalls(rng):
    """Far ends that go in some of 97 cycles, and then again in the same ones."""
    return {name: stall_pattern([True, *(rng.random(96) < rng.choice([0.1, 0.5, 0.9])).tolist()]) for name in STREAMS}


@for_each_accelerator
@pytest.mark.parametrize("stalled", [False, True])
def test_random_programs_are_bit_and_cycle_exact(config, stalled):
    rng = np.random.default_rng(51)
    programs = RandomPrograms(config, rng)
    stimuli = [programs.program(layers=3, max_vectors=4) for _ in range(3)]
    stalls = random_stalls(rng) if stalled else {}
    played = play(config, stimuli, 40_000, stalls)
    golden, timing = GoldenAccelerator(config), AcceleratorTiming(config)
    for stimulus, core in zip(stimuli, played, strict=True):
        expected = golden.execute(
            stimulus.program.words(config.macro), WordStream(stimulus.weights), WordStream(stimulus.activations)
        )
        assert core.error == golden.error == 0
        assert core.results.tobytes() == expected.results.tobytes()
        assert core.packets == expected.packets
        predicted = timing.run(stimulus.program, stalls)
        assert core.counters == {name: getattr(predicted, name) for name in core.counters}
        assert len(core.data) == predicted.result_words
        assert len(stimulus.weights) == predicted.weight_words
        assert len(stimulus.activations) == predicted.activation_words


@for_each_accelerator
@pytest.mark.parametrize("stalled", [False, True])
def test_a_layer_twenty_times_as_large_as_all_banks_is_the_integer_product(config, stalled):
    rng = np.random.default_rng(53)
    macro = config.macro
    pattern = macro.patterns[0]
    inputs = 2 * macro.tile_inputs(pattern, 1) + 1
    outputs = 10 * config.macros * macro.banks * macro.columns
    cells = config.macros * macro.banks * macro.sub_macros * macro.rows * macro.columns
    assert outputs * inputs * pattern.density >= 20 * cells
    layer = compile_layer(config, outputs, inputs, pattern, 2)
    weights = random_weights(rng, outputs, inputs, pattern, macro.weight_bits)
    low = 1 << (macro.activation_bits - 1)
    activations = rng.integers(-low, low, (2, inputs)).astype(np.int8)
    streams = layer.weight_image(*pack_layer(layer.tiling, weights)), layer.activation_image(activations)
    stalls = random_stalls(rng) if stalled else {}
    played = play(config, program_stimuli(config, layer.programs, *streams), 40_000, stalls)
    product = activations.astype(np.int64) @ weights.T.astype(np.int64)
    assert (layer.outputs(np.concatenate([core.results for core in played])) == product).all()
    timing = AcceleratorTiming(config)
    for program, core in zip(layer.programs, played, strict=True):
        predicted = timing.run(program, stalls)
        assert core.counters == {name: getattr(predicted, name) for name in core.counters}
