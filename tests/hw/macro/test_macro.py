"""The macro: layers through tiling, packing and streams equal the integer matrix product, in the predicted cycles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from amaranth.hdl import Value

from flexcim.config.macro import MacroConfig
from flexcim.macro.beats import activation_beats, constant_beats, constant_payloads, result_elements
from flexcim.macro.commands import ErrorKind, Load, Run
from flexcim.macro.program import LoadStep
from flexcim.packed.cells import pack_layer
from flexcim_hw.macro.macro import Macro
from flexcim_sim.golden.macro import GoldenMacro
from flexcim_sim.golden.requantizer import requantize
from tests.support.macro_jobs import Job, Layer, check_results, random_layers
from tests.support.random_programs import random_program
from tests.support.simulation import CONFIGS, Source, simulate

pytestmark = pytest.mark.simulator

for_each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
REQUANTIZED = CONFIGS["half parallel, requantized"]


def never() -> bool:
    return False


@dataclass
class Played:
    """What a macro did: payloads and cycles of its results, cycles of the input beats, error by cycle; the macro."""

    macro: Macro
    results: list[int] = field(default_factory=list)
    result_cycles: list[int] = field(default_factory=list)
    taken: dict[str, list[int]] = field(default_factory=dict)
    errors: list[int] = field(default_factory=list)


def play(
    config: MacroConfig,
    payloads: dict[str, list[int]],
    beats: int,
    limit: int,
    pause: Callable[[], bool] = never,
    press_back: Callable[[], bool] = never,
    from_cycle: dict[str, int] | None = None,
) -> Played:
    """Let a macro work until so many result beats have left, or for so many cycles.

    Parameters
    ----------
    config, payloads : MacroConfig, dict
        The macro and what its streams are offered.
    beats, limit : int
        When to stop.
    pause, press_back : callable
        Whether a source pauses before its next beat, and whether the sink is not ready.
    from_cycle : dict, optional
        Streams that begin late.
    """
    macro = Macro(config)
    played = Played(macro)
    late = from_cycle or {}

    def source(name: str) -> Source:
        return Source(getattr(macro, name), payloads[name], lambda: len(played.errors) < late.get(name, 0) or pause())

    sources = {name: source(name) for name in payloads}

    async def bench(ctx):
        held = None
        for cycle in range(limit):
            for source in sources.values():
                source.offer(ctx)
            ready = not press_back()
            ctx.set(macro.results.ready, ready)
            for source in sources.values():
                source.take(ctx, cycle)
            out = ctx.get(Value.cast(macro.results.payload)) if ctx.get(macro.results.valid) else None
            assert held is None or out == held, "a beat that was not taken must stay"
            held = None if ready else out
            if ready and out is not None:
                played.results.append(out)
                played.result_cycles.append(cycle)
            played.errors.append(ctx.get(macro.error))
            if len(played.results) == beats:
                return
            await ctx.tick()

    simulate(macro, bench)
    played.taken = {name: source.taken for name, source in sources.items()}
    return played


@for_each_config
def test_layers_are_the_integer_product_in_the_predicted_cycles(config):
    """One layer after the other in every mode: bit exact, cycle exact, without a pause where the mode changes."""
    rng = np.random.default_rng(31)
    layers = list(random_layers(config, rng))
    job = Job(config)
    for layer in layers:
        layer.append_to(job)
    played = play(config, job.payloads, job.beats, job.cycles + 50)
    check_results(config, layers, played.results)
    assert played.taken["load"][0] == played.taken["run"][0] == 0
    assert played.result_cycles[-1] == job.cycles
    assert not any(played.errors)


@for_each_config
def test_pauses_and_back_pressure_change_no_result(config):
    rng = np.random.default_rng(32)
    layers = [layer for index, layer in enumerate(random_layers(config, rng)) if index % 3 == 0]
    job = Job(config)
    for layer in layers:
        layer.append_to(job)
    limit = 20 * job.cycles + 200
    played = play(config, job.payloads, job.beats, limit, lambda: rng.random() < 0.6, lambda: rng.random() < 0.4)
    check_results(config, layers, played.results)
    assert not any(played.errors)


@for_each_config
def test_the_first_result_comes_after_the_latency(config):
    """Beats come long after the weights, so the vector starts in the cycle after its last one, to be issued N times."""
    rng = np.random.default_rng(33)
    pattern, groups = config.modes[-1]
    layer = Layer.random(config, rng, pattern, groups, 1, config.tile_inputs(pattern, groups), 1)
    job = Job(config)
    layer.append_to(job)
    late = config.weight_beats(config.rows) + 10
    played = play(config, job.payloads, 1, 400, from_cycle={"activations": late})
    start = played.taken["activations"][-1] + 1
    last_issue = start + config.issue_cycles(pattern)
    assert played.result_cycles[0] - last_issue == played.macro.latency == (7 if config.requantizer else 5)


@for_each_config
@pytest.mark.slow
def test_vectors_follow_each_other_at_the_interval(config):
    """In every mode: of a long run on one tile, the later results leave one vector every so many cycles."""
    rng = np.random.default_rng(40)
    for pattern, groups in config.modes:
        layer = Layer.random(config, rng, pattern, groups, 1, config.tile_inputs(pattern, groups), 12)
        job = Job(config)
        layer.append_to(job)
        played = play(config, job.payloads, job.beats, job.cycles + 50)
        ends = played.result_cycles[config.result_beats(groups) - 1 :: config.result_beats(groups)]
        steady = played.macro.interval(pattern, groups, config.rows, emits=True)
        assert np.diff(ends[-4:]).tolist() == [steady] * 3


def requantized_job(rng, vectors=4, tiles=3):
    """A requantized run on each of several loads with constants, and the results."""
    config = REQUANTIZED
    job, expected = Job(config), []
    for index in range(tiles):
        pattern, groups = config.modes[rng.integers(len(config.modes))]
        layer = Layer.random(
            config, rng, pattern, groups, config.tile_outputs(groups), config.tile_inputs(pattern, groups), vectors
        )
        mult = rng.integers(0, 1 << 16, config.tile_outputs(groups), dtype=np.uint16)
        shift = rng.integers(16, 30, len(mult), dtype=np.uint8)
        weights, offsets = (cells[0] for cells in pack_layer(layer.tiling, layer.weights))
        bank = index % config.banks
        job.load(Load(bank=bank, rows=config.rows, constants=True), weights, offsets, len(mult))
        job.payloads["constants"] += constant_payloads(config, *constant_beats(config, mult, shift))
        shared = {"bank": bank, "pattern": pattern, "groups": groups, "rows": config.rows, "vectors": vectors}
        # Twice on the same load: as they are, and requantized.
        job.run(Run(**shared, release=False), layer.activations)
        job.run(Run(**shared, requantize=True), layer.activations)
        product = layer.product.astype(np.int32)
        expected += [product, requantize(config, product, mult, shift)]
    return job, expected


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_requantized_results_and_their_cycles(share):
    rng = np.random.default_rng(34)
    job, expected = requantized_job(rng)
    limit = int(10 * job.cycles / (1 - share))
    played = play(
        REQUANTIZED, job.payloads, job.beats, limit, lambda: rng.random() < share, lambda: rng.random() < share
    )
    elements, _ = result_elements(REQUANTIZED, played.results)
    for part in expected:
        beats = len(part) * -(-part.shape[1] // REQUANTIZED.result_port)
        got, elements = elements[:beats].reshape(len(part), -1), elements[beats:]
        assert (got[:, : part.shape[1]] == part).all()
    assert not any(played.errors)
    assert share or played.result_cycles[-1] == job.cycles


def random_job(config, rng, steps, most_vectors):
    """A random program on random cells, and its results by the golden macro."""
    job, golden, expected = Job(config), GoldenMacro(config), []
    program = random_program(rng, config, steps, most_vectors)
    limit, low = 1 << (config.weight_bits - 1), 1 << (config.activation_bits - 1)
    for step in program.steps:
        if isinstance(step, LoadStep):
            shape = step.command.rows, config.sub_macros, config.columns
            weights = rng.integers(-limit, limit, size=shape, dtype=np.int8)
            offsets = rng.integers(0, 1 << config.index_bits, size=shape, dtype=np.uint8)
            job.load(step.command, weights, offsets, step.constants)
            constants = None
            if step.constants:
                mult = rng.integers(0, 1 << 16, step.constants, dtype=np.uint16)
                constants = mult, rng.integers(10, 30, len(mult), dtype=np.uint8)
                job.payloads["constants"] += constant_payloads(config, *constant_beats(config, *constants))
            golden.load(step.command.payload(), weights, offsets, constants)
        else:
            command = step.command
            width = command.rows * config.window(command.pattern, command.groups)
            activations = rng.integers(-low, low, size=(command.vectors, width), dtype=np.int8)
            job.run(command, activations)
            beats = activation_beats(config, command.pattern, command.groups, command.rows, activations)
            results = golden.run(command.payload(config), beats)
            if results is not None:
                size = config.result_beats(command.groups) * config.result_port
                expected.append(np.pad(results, ((0, 0), (0, size - results.shape[1]))))
    return job, np.concatenate([part.reshape(-1, config.result_port) for part in expected])


@for_each_config
def test_random_programs_are_bit_and_cycle_exact(config):
    rng = np.random.default_rng(38)
    for _ in range(2):
        job, expected = random_job(config, rng, steps=20, most_vectors=4)
        played = play(config, job.payloads, job.beats, job.cycles + 50)
        assert not any(played.errors)
        assert (result_elements(config, played.results)[0] == expected).all()
        assert played.result_cycles[-1] == job.cycles


def test_an_error_is_kept_and_ends_everything():
    config = CONFIGS["serial"]
    rng = np.random.default_rng(35)
    layer = Layer.random(config, rng, *config.modes[0], 4, 12, 2)
    job = Job(config)
    layer.append_to(job)
    beats = job.beats
    job.payloads["run"].append(Run(bank=0, pattern=config.patterns[0], groups=1, rows=3, vectors=0).payload(config))
    job.payloads["load"].append(Load(bank=9, rows=1).payload())
    layer.append_to(job)
    played = play(config, job.payloads, 2 * beats, 200)
    kinds = list(dict.fromkeys(played.errors))
    # The load is the first to be illegal, and the run that follows in the same job is not even taken.
    assert kinds[0] == ErrorKind.NONE
    assert kinds[1:] in ([ErrorKind.LOAD_BANK], [ErrorKind.RUN_VECTORS])
    first = played.errors.index(kinds[1])
    assert all(cycle < first for cycles in played.taken.values() for cycle in cycles)


def test_the_lower_kind_wins_in_one_cycle():
    config = CONFIGS["serial"]
    load, run = Load(bank=0, rows=9), Run(bank=7, pattern=config.patterns[0], groups=1, rows=1, vectors=1)
    payloads = {"load": [load.payload()], "run": [run.payload(config)], "weights": [], "activations": []}
    assert play(config, payloads, 1, 5).errors == [0, *[ErrorKind.LOAD_ROWS] * 4]
    later = play(config, payloads, 1, 6, from_cycle={"load": 1}).errors
    assert later == [0, *[ErrorKind.RUN_BANK] * 5]
