"""The accelerator's core in Amaranth's simulator: bit exact by the golden accelerator, cycle exact by the cycle model.

The generated Verilog of all instances is tested through its ports in tests/sim/bench/test_accelerator_bench.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from flexcim.accelerator.cycles import AcceleratorTiming
from flexcim.accelerator.instructions import INSTRUCTION_FIELDS, AcceleratorProgram
from flexcim.accelerator.registers import register
from flexcim.accelerator.stream_cycles import stall_pattern
from flexcim.compiler.layer import compile_layer
from flexcim.errors import FlexCiMError
from flexcim.packed.cells import pack_layer
from flexcim_hw.accelerator.accelerator import Accelerator
from flexcim_sim.bench.stimuli.accelerator import RandomPrograms
from flexcim_sim.golden.accelerator import GoldenAccelerator, WordStream
from tests.support.accelerators import ACCELERATORS, play, program_stimuli
from tests.support.simulation import simulate
from tests.support.sparse_weights import random_weights

pytestmark = pytest.mark.simulator

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
        is_first = core is played[0]
        assert core.interval == (core.counters["cycles"] if is_first and not stalled else None)
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


@for_each_accelerator
def test_no_inverted_bit_of_a_program_gives_a_wrong_result_without_an_error(config):
    """The golden accelerator says what a program with one inverted bit does; there is no other kind of answer."""
    ends = {check_inverted_bit(config, np.random.default_rng([57, index])) for index in range(5)}
    assert "error" in ends


def check_inverted_bit(config, rng):
    """Compare a program with one inverted bit; returns how it ended."""
    stimulus = RandomPrograms(config, rng).program(layers=2, max_vectors=3)
    # Behind the program, nothing is an instruction; behind the images, there are words enough for other programs.
    words = np.full((config.program_depth, 4), 0xFFFF_FFFF, np.uint32)
    legal = stimulus.program.words(config.macro)
    words[: len(legal)] = legal
    named = [(low, width) for fields in INSTRUCTION_FIELDS.values() for low, width in fields.values()]
    low, width = named[rng.integers(len(named))]
    bit = low + int(rng.integers(width))
    words[rng.integers(len(legal)), bit // 32] ^= np.uint32(1 << bit % 32)
    stimulus.tiles.append(np.zeros((1000, config.weight_bus // 8), np.uint8))
    stimulus.runs.append(np.zeros((1000, config.activation_bus // 8), np.uint8))
    golden = GoldenAccelerator(config)
    try:
        expected = golden.execute(words, WordStream(stimulus.weights), WordStream(stimulus.activations)).results
    except FlexCiMError:  # it would need still more words
        return "waits"
    (core,) = play(config, [stimulus], 4_000, program=words)
    if golden.error:
        assert core.error
        # Of the run at fault, vectors may have left before; the golden accelerator gives none of it.
        common = min(core.results.size, expected.size)
        assert core.results.tobytes()[:common] == expected.tobytes()[:common]
        return "error"
    assert core.done
    assert not core.error
    assert core.results.tobytes() == expected.tobytes()
    return "done"


@pytest.mark.parametrize("config", [ACCELERATORS["one macro"], ACCELERATORS["four macros, wide buses"]])
def test_a_program_starts_and_interrupts_as_many_cycles_later_as_the_accelerator_says(config):
    """By AXI4-Lite and by Wishbone: an empty program, started by a write of CONTROL."""
    accelerator = Accelerator(config)
    wishbone = config.register_bus == "wishbone"
    cycles = AcceleratorTiming(config).run(AcceleratorProgram(())).cycles
    written: list[int] = []
    raised: list[int] = []

    async def bench(ctx):
        clock = 0

        async def write(name, value):
            nonlocal clock
            values = {"cyc_i": 1, "stb_i": 1, "we_i": 1, "sel_i": 15, "dat_i": value, "adr_i": register(name).address}
            if not wishbone:
                values = {"awvalid": 1, "awaddr": register(name).address, "wvalid": 1, "wdata": value, "wstrb": 15}
            for pin, word in values.items():
                ctx.set(getattr(accelerator, f"{'wb' if wishbone else 's_axil'}_{pin}"), word)
            written.append(clock)
            for _ in range(accelerator.interval):
                if ctx.get(accelerator.irq):
                    raised.append(clock)
                await ctx.tick()
                clock += 1
                for pin in values:
                    if not wishbone:
                        ctx.set(getattr(accelerator, f"s_axil_{pin}"), 0)
            if wishbone:
                ctx.set(accelerator.wb_stb_i, 0)

        if not wishbone:
            ctx.set(accelerator.s_axil_bready, 1)
        for word in encoded_words(config):
            await write("PROGRAM_DATA", word)
        await write("INTERRUPT", 1)
        await write("CONTROL", 1)
        for _ in range(20):
            if ctx.get(accelerator.irq):
                raised.append(clock)
            await ctx.tick()
            clock += 1

    simulate(accelerator, bench)
    # `done` is kept by a register, which irq shows.
    assert raised[0] == written[-1] + accelerator.latency + cycles + 1


def encoded_words(config):
    """The program memory's words of an empty program."""
    return AcceleratorProgram(()).words(config.macro).reshape(-1).tolist()
