"""The golden accelerator: layers are the integer matrix product, and every kind of wrong program is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flexcim.accelerator.instructions import AcceleratorError, Loop
from flexcim.compiler.layer import compile_layer
from flexcim.errors import FlexCiMError
from flexcim.packed.cells import pack_layer
from flexcim_sim.bench.stimuli.accelerator_illegal import illegal_programs, rounds
from flexcim_sim.golden.accelerator import GoldenAccelerator, WordStream
from tests.support.accelerators import ACCELERATORS
from tests.support.sparse_weights import random_weights

for_each_accelerator = pytest.mark.parametrize("config", ACCELERATORS.values(), ids=ACCELERATORS)


def execute(golden, stimulus):
    words = stimulus.program.words(golden.config.macro)
    return golden.execute(words, WordStream(stimulus.weights), WordStream(stimulus.activations))


@for_each_accelerator
def test_a_layer_in_each_mode_is_the_integer_product(config):
    """On one accelerator, one layer after the other, each of several tiles both ways and with remainders."""
    rng = np.random.default_rng(81)
    macro = config.macro
    golden = GoldenAccelerator(config)
    for pattern, groups in macro.modes:
        inputs = 2 * macro.tile_inputs(pattern, groups) + 1
        outputs = (2 * config.macros + 1) * macro.tile_outputs(groups) - 1
        vectors = max(1, macro.accumulator_depth // groups - 1)
        layer = compile_layer(config, outputs, inputs, pattern, vectors, groups=groups)
        weights = random_weights(rng, outputs, inputs, pattern, macro.weight_bits)
        low = 1 << (macro.activation_bits - 1)
        activations = rng.integers(-low, low, (vectors, inputs)).astype(np.int8)
        streams = (
            WordStream(layer.weight_image(*pack_layer(layer.tiling, weights))),
            WordStream(layer.activation_image(activations)),
        )
        executed = [golden.execute(program.words(macro), *streams) for program in layer.programs]
        product = activations.astype(np.int64) @ weights.T.astype(np.int64)
        assert (layer.outputs(np.concatenate([one.results for one in executed])) == product).all()
        assert all(one.packets[-1] == one.results.size for one in executed)
    assert not golden.error


def test_a_loop_does_what_its_instructions_do_written_out():
    config = ACCELERATORS["three macros, narrow buses"]
    stimulus = rounds(config, np.random.default_rng(82), 1)
    plain, looped = replace(stimulus), replace(stimulus)
    plain.instructions = stimulus.instructions * 3
    looped.instructions = [Loop(length=len(stimulus.instructions), count=3), *stimulus.instructions]
    for one in (plain, looped):
        one.tiles, one.runs = stimulus.tiles * 3, stimulus.runs * 3
    results = [execute(GoldenAccelerator(config), one) for one in (plain, looped)]
    assert (results[0].results == results[1].results).all()
    assert results[0].packets == results[1].packets
    assert len(results[0].packets) == 3


@for_each_accelerator
def test_every_kind_of_wrong_program_is_told_and_kept(config):
    stimulus = rounds(config, np.random.default_rng(83), 3)
    legal = execute(GoldenAccelerator(config), stimulus).results
    kinds = set()
    for illegal in illegal_programs(stimulus):
        golden = GoldenAccelerator(config)
        streams = []
        for name in ("weights", "activations"):
            words = getattr(stimulus, name)
            last = np.zeros(len(words), np.bool_)
            last[sorted(illegal.lasts.get(name, ()))] = True
            streams.append(WordStream(words, last))
        executed = golden.execute(illegal.words, *streams, entry=illegal.entry)
        assert golden.error is illegal.kind
        assert bytes(executed.results) == bytes(legal[: executed.results.size])
        assert execute(golden, stimulus).results.size == 0
        assert golden.error is illegal.kind
        kinds.add(golden.error)
    assert kinds >= set(AcceleratorError) - {
        AcceleratorError.NONE,
        AcceleratorError.OVERRUN,  # needs a time
        AcceleratorError.WEIGHTS_LAST,  # needs images of several words
        AcceleratorError.ACTIVATIONS_LAST,
    }


def test_a_program_that_waits_for_ever_is_told():
    config = ACCELERATORS["one macro"]
    stimulus = rounds(config, np.random.default_rng(84), 1)
    words = stimulus.program.words(config.macro)
    with pytest.raises(FlexCiMError, match=r"the program takes \d+ more words of weights, but 1 are left"):
        GoldenAccelerator(config).execute(words, WordStream(stimulus.weights[:1]), WordStream(stimulus.activations))
