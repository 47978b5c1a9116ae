"""The tests that every macro has to pass, run by cocotb in the simulator.

``MacroBench.play`` compares each stimulus with the golden model bit by bit and, where nothing stalls, with the cycle
model cycle by cycle, so a test only says what is played.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random

from numpy.random import Generator

from flexcim.config.macro import MacroConfig
from flexcim.macro.commands import Run
from flexcim.macro.cycles import result_entries, vector_cycles
from flexcim_sim.bench.benches.macro import MacroBench
from flexcim_sim.bench.ends.streams import Stall, bursts, held, now_and_then
from flexcim_sim.bench.played.job import bench_test
from flexcim_sim.bench.stimuli.illegal import errors_at_once, illegal_stimuli
from flexcim_sim.bench.stimuli.macro import Stimulus
from flexcim_sim.bench.stimuli.random import random_beats, random_image, random_mode, random_program

STREAMS = ("load", "run", "weights", "activations", "constants", "results")


def random_stalls(rng: Generator) -> Mapping[str, Stall]:
    """Each stream never pauses, pauses now and then, often, or in bursts."""
    chance = Random(int(rng.integers(1 << 32)))
    stalls = {}
    for stream in STREAMS:
        kind = chance.choice(["none", "rare", "often", "bursts"])
        if kind == "bursts":
            stalls[stream] = bursts(chance, 30)
        elif kind != "none":
            stalls[stream] = now_and_then(chance, 0.2 if kind == "rare" else 0.7)
    return stalls


@bench_test
async def every_mode(bench: MacroBench, rng: Generator) -> None:
    """Each pattern at each G, alone, for long enough that the results' room is used up once."""
    config = bench.config
    for index, (pattern, groups) in enumerate(config.modes):
        stimulus = Stimulus(config)
        random_mode(stimulus, rng, index % config.banks, pattern, groups, result_entries(config) + 2)
        await bench.play(stimulus)


@bench_test
async def changing_modes(bench: MacroBench, rng: Generator) -> None:
    """All modes one after the other in random order: no bubble where pattern, groups and bank change."""
    config = bench.config
    stimulus = Stimulus(config)
    for index, mode in enumerate(rng.permutation(len(config.modes))):
        pattern, groups = config.modes[mode]
        random_mode(stimulus, rng, index % config.banks, pattern, groups, int(rng.integers(1, 6)))
    await bench.play(stimulus)


@bench_test
async def programs(bench: MacroBench, rng: Generator) -> None:
    """Random programs at full throughput."""
    for _ in range(4):
        await bench.play(random_program(bench.config, rng, layers=8, max_vectors=8))
        await bench.reset()


@bench_test
async def programs_with_stalls(bench: MacroBench, rng: Generator) -> None:
    """Random programs while the inputs pause and the results are pressed back."""
    for _ in range(6):
        await bench.play(random_program(bench.config, rng, layers=6, max_vectors=6), random_stalls(rng))
        await bench.reset()


@bench_test
async def accumulation(bench: MacroBench, rng: Generator) -> None:
    """Two K tiles over as many vectors as the accumulator's memory holds, at the least and the most groups.

    No two vectors are alike, so a sum that is kept in another one's place shows.
    """
    config = bench.config
    pattern, groups = config.modes[rng.integers(len(config.modes))]
    for count in {1, groups}:
        stimulus = Stimulus(config)
        vectors = config.accumulator_depth // count
        for k_tile in range(2):
            bank = k_tile % config.banks
            stimulus.add_load(bank, random_image(config, rng, pattern, 1, kind="uniform"))
            command = Run(
                bank=bank,
                pattern=pattern,
                groups=count,
                rows=1,
                vectors=vectors,
                first_k=k_tile == 0,
                last_k=k_tile == 1,
            )
            stimulus.add_run(command, random_beats(config, rng, pattern, count, 1, vectors, kind="uniform"))
        await bench.play(stimulus)


@bench_test
async def resident_weights(bench: MacroBench, rng: Generator) -> None:
    """Many runs on one load, while the other banks are loaded anew."""
    config = bench.config
    pattern, groups = config.modes[rng.integers(len(config.modes))]
    stimulus = Stimulus(config)
    stimulus.add_load(0, random_image(config, rng, pattern, config.rows))
    resident = Run(bank=0, pattern=pattern, groups=groups, rows=config.rows, vectors=2, release=False)
    for index in range(4):
        stimulus.add_run(resident, random_beats(config, rng, pattern, groups, config.rows, 2))
        if config.banks > 1:
            random_mode(stimulus, rng, 1 + index % (config.banks - 1), pattern, groups, 1)
    stimulus.add_run(replace(resident, release=True), random_beats(config, rng, pattern, groups, config.rows, 2))
    random_mode(stimulus, rng, 0, pattern, groups, 2)
    await bench.play(stimulus)


@bench_test
async def changing_banks(bench: MacroBench, rng: Generator) -> None:
    """Short runs on resident tiles in turn, which no load can hide: no bubble where pattern, groups and bank change."""
    for _ in range(6):
        await bench.play(_short_runs(bench.config, rng, turns=4))


def _short_runs(config: MacroConfig, rng: Generator, turns: int) -> Stimulus:
    """A tile in each bank, and runs of one or two vectors on them in turn."""
    stimulus = Stimulus(config)
    modes = [config.modes[index] for index in rng.integers(len(config.modes), size=config.banks)]
    for bank, (pattern, _) in enumerate(modes):
        stimulus.add_load(bank, random_image(config, rng, pattern, config.rows))
    for turn in range(turns):
        for bank, (pattern, groups) in enumerate(modes):
            vectors = int(rng.integers(1, 3))
            command = Run(
                bank=bank,
                pattern=pattern,
                groups=groups,
                rows=config.rows,
                vectors=vectors,
                release=turn == turns - 1,
            )
            stimulus.add_run(command, random_beats(config, rng, pattern, groups, config.rows, vectors))
    return stimulus


@bench_test
async def pressed_back(bench: MacroBench, rng: Generator) -> None:
    """Results that are not taken until the macro stands still are neither lost nor repeated."""
    config = bench.config
    pattern, groups = config.modes[rng.integers(len(config.modes))]
    entries = result_entries(config)
    stimulus = Stimulus(config)
    random_mode(stimulus, rng, 0, pattern, groups, 3 * entries)
    # Long enough for the load and for more vectors than there is room for.
    vectors = 2 * entries * vector_cycles(config, pattern, groups, config.rows, emits=False)
    await bench.play(stimulus, {"results": held(config.weight_beats(config.rows) + vectors + 50)})


@bench_test
async def reset_in_a_run(bench: MacroBench, rng: Generator) -> None:
    """A reset at any time leaves a clean macro."""
    for _ in range(4):
        broken_off = random_program(bench.config, rng, layers=4, max_vectors=6)
        await bench.play(broken_off, random_stalls(rng), stop_after=int(rng.integers(1, 400)))
        await bench.reset()
        await bench.play(random_program(bench.config, rng, layers=2, max_vectors=4))
        await bench.reset()


@bench_test
async def refusals(bench: MacroBench, rng: Generator) -> None:
    """Every kind of error, at full throughput and with stalls; a reset clears it."""
    for stimulus in illegal_stimuli(bench.config, rng):
        for stalls in ({}, random_stalls(rng)):
            await bench.play(stimulus, stalls)
            await bench.reset()
    await bench.play(errors_at_once(bench.config, rng))
    await bench.reset()
    await bench.play(random_program(bench.config, rng, layers=2, max_vectors=4))
