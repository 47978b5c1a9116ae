"""Compiled layers: on every accelerator the golden one gives the integer product, in the RTL too, cycle by cycle; and
the mapping is the fastest of all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flexcim.accelerator.cycles import AcceleratorTiming
from flexcim.accelerator.instructions import AcceleratorProgram, Loop, RunTiles
from flexcim.compiler.layer import all_banks, compile_layer, compile_resident_layer
from flexcim.compiler.mapping import CompileError, candidate_mappings
from flexcim.compiler.program_memory import make_programs
from flexcim.compiler.schedule import schedule_layer
from flexcim.config.accelerator import ACCELERATOR_PRESETS, AcceleratorConfig
from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.packed.cells import pack_layer
from flexcim.packed.tiling import LayerTiling
from flexcim_sim.golden.accelerator import GoldenAccelerator, WordStream
from tests.support.accelerators import ACCELERATORS, play, program_stimuli
from tests.support.sparse_weights import random_weights

DENSE = Pattern(1, 1)


def layer_data(layer, rng):
    """A layer's random weights and vectors, and their product."""
    macro, tiling = layer.config.macro, layer.tiling
    weights = random_weights(rng, tiling.outputs, tiling.inputs, tiling.pattern, macro.weight_bits)
    low = 1 << (macro.activation_bits - 1)
    activations = rng.integers(-low, low, (layer.vectors, tiling.inputs)).astype(np.int8)
    return weights, activations, activations.astype(np.int64) @ weights.T.astype(np.int64)


def execute(golden, programs, weights, activations):
    """The result bytes of programs that take all of two streams."""
    streams = WordStream(weights), WordStream(activations)
    parts = [golden.execute(program.words(golden.config.macro), *streams).results for program in programs]
    assert not golden.error
    assert [stream.taken for stream in streams] == [len(stream.words) for stream in streams]
    return np.concatenate(parts)


def none_of(bus):
    return np.zeros((0, bus // 8), np.uint8)


def check(layer, rng, golden=None):
    """That a streaming layer's programs fit, and give the integer product."""
    weights, activations, product = layer_data(layer, rng)
    image = layer.weight_image(*pack_layer(layer.tiling, weights))
    results = execute(
        golden or GoldenAccelerator(layer.config), layer.programs, image, layer.activation_image(activations)
    )
    assert (layer.outputs(results) == product).all()
    assert all(len(program) <= layer.config.program_depth for program in layer.programs)
    assert len(image) == layer.cycles.weight_words


@pytest.mark.parametrize("config", ACCELERATORS.values(), ids=ACCELERATORS)
@pytest.mark.parametrize(("k_tiles", "output_tiles"), [(0, 0), (0, 3), (2, 0), (2, 3), (4, 2)])
def test_layers_with_remainders_are_the_integer_product(config, k_tiles, output_tiles):
    """One after the other on one accelerator, with one vector and with more than the accumulators keep."""
    rng = np.random.default_rng([101, k_tiles, output_tiles])
    golden, macro = GoldenAccelerator(config), config.macro
    for pattern in macro.patterns[:3]:
        inputs = k_tiles * macro.tile_inputs(pattern, 1) + int(rng.integers(1, macro.tile_inputs(pattern, 1)))
        outputs = output_tiles * macro.columns + int(rng.integers(1, macro.columns))
        for vectors in (1, macro.accumulator_depth + 3):
            check(compile_layer(config, outputs, inputs, pattern, vectors), rng, golden)


@pytest.mark.parametrize("name", ["one macro", "three macros, narrow buses", "one bank, parallel"])
def test_every_mapping_is_the_integer_product(name):
    """Not only the chosen one."""
    rng = np.random.default_rng(102)
    config = ACCELERATORS[name]
    macro, seen = config.macro, set()
    for pattern, groups in macro.modes:
        tiling = LayerTiling(macro, 3 * macro.columns + 1, macro.tile_inputs(pattern, 1) + 1, pattern, groups, "a test")
        vectors = macro.accumulator_depth + 1
        for mapping in candidate_mappings(config, tiling, vectors, macro.banks):
            schedule = schedule_layer(config, tiling, vectors, mapping, banks=macro.banks)
            programs = make_programs(schedule.instructions, config.program_depth)
            layer = replace(
                compile_layer(config, tiling.outputs, tiling.inputs, pattern, vectors),
                tiling=tiling,
                mapping=mapping,
                schedule=schedule,
                programs=programs,
            )
            check(layer, rng)
            seen.add((mapping.keep, mapping.width))
            assert schedule.bounds(config).cycles <= layer.cycles.cycles
    assert len({keep for keep, _ in seen}) == (2 if macro.banks > 1 else 1)


def test_the_choice_is_the_fastest_of_all_mappings():
    config, pattern = ACCELERATORS["three macros, narrow buses"], Pattern(2, 4)
    for outputs, inputs, vectors in ((9, 40, 1), (50, 70, 70), (5, 200, 20)):
        every = []
        for groups in config.macro.legal_groups(pattern):
            tiling = LayerTiling(config.macro, outputs, inputs, pattern, groups, "a test")
            for mapping in candidate_mappings(config, tiling, vectors, 2):
                schedule = schedule_layer(config, tiling, vectors, mapping, banks=2)
                timing = AcceleratorTiming(config)
                programs = make_programs(schedule.instructions, config.program_depth)
                every.append(sum(timing.run(program).cycles for program in programs))
        assert len(set(every)) > 2
        assert compile_layer(config, outputs, inputs, pattern, vectors).cycles.cycles == min(every)


def test_more_than_one_shape_of_mapping_wins_somewhere():
    """The choice is no fixed rule: G, the macros of a run and the keeping of tiles all differ from layer to layer."""
    chosen = []
    for config in ACCELERATORS.values():
        for outputs, inputs, vectors in ((1, 400, 40), (60, 9, 40), (40, 60, 40), (40, 60, 1), (9, 30, 200)):
            chosen.append(compile_layer(config, outputs, inputs, config.macro.patterns[0], vectors).mapping)
    assert len({mapping.groups for mapping in chosen}) > 1
    assert {mapping.keep for mapping in chosen} == {False, True}


def test_with_one_bank_macros_may_take_turns():
    """While one macro computes, the other one is loaded."""
    macro = MacroConfig.from_mapping({"rows": 4, "columns": 4, "banks": 1, "patterns": ["1:1"]})
    config = AcceleratorConfig(macro=macro, macros=2, weight_bus=1024)
    layer = compile_layer(config, 64, 16, DENSE, 4)
    assert layer.mapping.width == 1
    check(layer, np.random.default_rng(103))


def test_a_layer_twenty_times_the_memory_of_cells_runs():
    config = ACCELERATORS["three macros, narrow buses"]
    macro = config.macro
    outputs, inputs = 130, 240
    tiles = config.macros * macro.banks
    assert outputs * inputs > 20 * tiles * macro.sub_macros * macro.rows * macro.columns
    layer = compile_layer(config, outputs, inputs, DENSE, 70)
    assert layer.cycles.weight_words > 20 * tiles * layer.config.macro.weight_beats(macro.rows)
    check(layer, np.random.default_rng(104))


def test_the_activation_memory_brings_each_vector_once():
    config = ACCELERATOR_PRESETS["accelerator"]
    layer = compile_layer(config, 256, 512, Pattern(4, 8), 16)
    replays = [run.replay for run in layer.schedule.instructions if isinstance(run, RunTiles)]
    stored = sum(run.store for run in layer.schedule.instructions if isinstance(run, RunTiles))
    assert stored * layer.tiling.output_tiles == len(replays)
    assert replays.count(False) == stored
    without = compile_layer(replace(config, activation_memory=0), 256, 512, Pattern(4, 8), 16)
    assert without.cycles.activation_words == layer.tiling.output_tiles * layer.cycles.activation_words
    few = compile_layer(replace(config, activation_memory=70), 256, 512, Pattern(4, 8), 16)
    assert layer.cycles.activation_words < few.cycles.activation_words < without.cycles.activation_words


def test_a_small_program_memory_gets_loops_and_then_several_programs():
    config = ACCELERATORS["one macro"]
    rng = np.random.default_rng(105)
    whole = compile_layer(replace(config, program_depth=4096), 64, 64, DENSE, 3)
    looped = compile_layer(replace(config, program_depth=32), 64, 64, DENSE, 3)
    assert len(whole.programs) == len(looped.programs) == 1
    assert any(isinstance(one, Loop) for one in looped.programs[0].instructions)
    assert looped.cycles.cycles - whole.cycles.cycles < 20
    for depth in (2, 3, 5):
        split = compile_layer(replace(config, program_depth=depth), 24, 33, DENSE, 3)
        assert len(split.programs) > 1
        check(split, rng)
    check(looped, rng)


def test_programs_carry_out_what_they_are_made_of():
    config = ACCELERATORS["two macros, odd beats, no memory"]
    pattern = config.macro.patterns[0]
    layer = compile_layer(config, 100, 50, pattern, 5)
    plain = [
        replace(one, end_packet=False) if isinstance(one, RunTiles) else one for one in layer.schedule.instructions
    ]
    for depth in range(2, 40):
        carried = [one for program in make_programs(plain, depth) for one in program.carried_out()]
        assert [replace(one, end_packet=False) if isinstance(one, RunTiles) else one for one in carried] == plain


@pytest.mark.parametrize("config", ACCELERATORS.values(), ids=ACCELERATORS)
def test_a_resident_layer_is_loaded_once(config):
    rng = np.random.default_rng(106)
    macro = config.macro
    pattern = macro.patterns[0]
    outputs, inputs = config.macros * macro.columns, macro.tile_inputs(pattern, 1)
    layer = compile_resident_layer(config, outputs, inputs, pattern, 3, all_banks(config))
    assert layer is not None
    assert layer.resident
    weights, activations, product = layer_data(layer, rng)
    golden = GoldenAccelerator(config)
    image = layer.weight_image(*pack_layer(layer.tiling, weights))
    execute(golden, layer.loading, image, none_of(config.activation_bus))
    assert layer.cycles.weight_words == 0
    for sign in (1, -1):
        vectors = (np.maximum(activations, -127) * sign).astype(np.int8) if macro.activation_bits == 8 else activations
        results = execute(golden, layer.programs, none_of(config.weight_bus), layer.activation_image(vectors))
        assert (layer.outputs(results) == vectors.astype(np.int64) @ weights.T.astype(np.int64)).all()
    too_large = (config.macros * macro.banks + 1) * macro.sub_macros * macro.columns
    assert compile_resident_layer(config, too_large, inputs, pattern, 3, all_banks(config)) is None
    assert product.shape == (3, outputs)


@pytest.mark.parametrize(
    ("name", "outputs", "inputs", "vectors"),
    [("one bank, parallel", 14, 25, 3), ("three macros, narrow buses", 30, 40, 2)],
)
def test_the_rtl_takes_the_cycles_and_gives_the_product(name, outputs, inputs, vectors):
    rng, config = np.random.default_rng(107), replace(ACCELERATORS[name], program_depth=16)
    layer = compile_layer(config, outputs, inputs, config.macro.patterns[0], vectors)
    weights, activations, product = layer_data(layer, rng)
    streams = layer.weight_image(*pack_layer(layer.tiling, weights)), layer.activation_image(activations)
    played = play(config, program_stimuli(config, layer.programs, *streams), 20_000)
    assert len(played) > 1
    assert (layer.outputs(np.concatenate([core.results for core in played])) == product).all()
    assert sum(core.counters["cycles"] for core in played) == layer.cycles.cycles


def test_what_does_not_fit_is_told():
    config = ACCELERATORS["one macro"]
    with pytest.raises(CompileError, match="a layer must multiply at least one vector, not 0"):
        compile_layer(config, 4, 4, DENSE, 0)
    layer = compile_layer(config, 4, 4, DENSE, 2)
    with pytest.raises(ValueError, match=r"activations must be \[2, 4\], not \[1, 4\]"):
        layer.activation_image(np.zeros((1, 4), np.int8))
    with pytest.raises(ValueError, match="weights must be"):
        layer.weight_image(np.zeros((1, 4), np.int8), np.zeros((1, 4), np.uint8))
    with pytest.raises(ValueError, match=r"a pass has \d+ bytes of results, not"):
        layer.outputs(np.zeros(100_000, np.uint8))
    with pytest.raises(CompileError, match="a layer must multiply at least one vector, not 0"):
        schedule_layer(config, layer.tiling, 0, layer.mapping, banks=2)
    assert AcceleratorProgram(()).words(config.macro).shape == (1, 4)
