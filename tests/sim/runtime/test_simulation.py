"""RTL that runs in this process: the same results and cycles as in the other simulators, with and without pauses."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from flexcim.macro.commands import ErrorKind, Load
from flexcim_hw.verilog.macro import generate
from flexcim_sim.build.library import build_library
from flexcim_sim.runtime.simulation import Moved, Simulation, SimulationError
from tests.support.macro_jobs import Job, check_results, random_layers
from tests.support.simulation import CONFIGS

pytestmark = pytest.mark.simulator

CONFIG = CONFIGS["two bits, wide windows"]


@cache
def library():
    return build_library(generate(CONFIG))


@pytest.fixture
def simulation():
    with Simulation(library()) as opened:
        yield opened


def to_words(payloads, count):
    """Payloads as uint32 [beats, words], lowest word first."""
    raw = b"".join(payload.to_bytes(4 * count, "little") for payload in payloads)
    return np.frombuffer(raw, np.uint32).reshape(-1, count)


def from_words(beats):
    return [int.from_bytes(beat.tobytes(), "little") for beat in beats]


def push(simulation, job):
    words = {stream.name: stream.beat_words for stream in library().streams}
    for name, payloads in job.payloads.items():
        simulation.push(name, to_words(payloads, words[name]))


def random_job(seed):
    layers = list(random_layers(CONFIG, np.random.default_rng(seed)))
    job = Job(CONFIG)
    for layer in layers:
        layer.append_to(job)
    return layers, job


def test_layers_are_exact_in_the_predicted_cycles(simulation):
    layers, job = random_job(50)
    push(simulation, job)
    simulation.run_until("results", job.beats, job.cycles + 10)
    assert simulation.cycle == job.cycles + 1
    moved = simulation.moved("results")
    assert (moved.beats, moved.last) == (job.beats, job.cycles)
    assert simulation.moved("load").first == simulation.moved("run").first == 0
    check_results(CONFIG, layers, from_words(simulation.pull("results")))
    assert simulation.output("error") == 0
    assert [simulation.waiting(name) for name in job.payloads] == [0] * 4


def test_pauses_change_no_result_and_follow_the_seed(simulation):
    layers, job = random_job(51)
    cycles = []
    for seed in (1, 1, 2):
        simulation.reset()
        simulation.pause({"weights": 0.5, "activations": 0.3, "results": 0.6, "run": 0.9}, seed)
        push(simulation, job)
        simulation.run_until("results", job.beats, 50 * job.cycles)
        check_results(CONFIG, layers, from_words(simulation.pull("results")))
        cycles.append(simulation.cycle)
    assert job.cycles < cycles[0] == cycles[1] != cycles[2]


def test_results_may_be_pulled_and_beats_pushed_in_parts(simulation):
    layers, job = random_job(52)
    words = {stream.name: stream.beat_words for stream in library().streams}
    found: list[int] = []
    queues = {name: to_words(payloads, words[name]) for name, payloads in job.payloads.items()}
    while len(found) < job.beats:
        for name, beats in queues.items():
            simulation.push(name, beats[:7])
            queues[name] = beats[7:]
        assert simulation.run(11) == 11
        found += from_words(simulation.pull("results"))
    check_results(CONFIG, layers, found)


def test_a_reset_forgets_everything(simulation):
    layers, job = random_job(53)
    push(simulation, job)
    simulation.run(job.cycles // 2)
    simulation.reset()
    assert simulation.cycle == simulation.waiting("weights") == simulation.waiting("results") == 0
    assert simulation.moved("results") == Moved(0, 0, 0)
    push(simulation, job)
    simulation.run_until("results", job.beats, job.cycles + 10)
    check_results(CONFIG, layers, from_words(simulation.pull("results")))


def test_two_simulations_know_nothing_of_each_other(simulation):
    layers, job = random_job(54)
    with Simulation(library()) as other:
        push(simulation, job)
        other.run(100)
        simulation.run_until("results", job.beats, job.cycles + 10)
        assert other.waiting("results") == 0
    check_results(CONFIG, layers, from_words(simulation.pull("results")))


def test_an_error_ends_a_run(simulation):
    simulation.push("load", to_words([Load(bank=CONFIG.banks, rows=1).payload()], 1))
    assert simulation.run(1000) < 10
    assert simulation.output("error") == ErrorKind.LOAD_BANK


def test_what_never_comes_is_said(simulation):
    with pytest.raises(SimulationError, match=r"^0 of 3 beats of results came within 20 cycles \(error = 0\)$"):
        simulation.run_until("results", 3, 20)


@pytest.mark.parametrize(
    ("stream", "beats", "message"),
    [
        ("load", np.zeros((1, 2), np.uint32), r"load is an input of uint32 \[beats, 1\], not one for uint32 \[1, 2\]"),
        ("load", np.zeros((1, 1), np.int32), r"load is an input of uint32 \[beats, 1\], not one for int32 \[1, 1\]"),
        ("results", np.zeros((1, 17), np.uint32), r"results is an output of uint32 \[beats, 17\]"),
    ],
)
def test_beats_that_do_not_fit_are_refused(simulation, stream, beats, message):
    with pytest.raises(ValueError, match=message):
        simulation.push(stream, beats)


def test_an_input_is_not_pulled(simulation):
    with pytest.raises(ValueError, match="load is an input, nothing comes out of it"):
        simulation.pull("load")


def test_a_pause_for_ever_is_refused(simulation):
    message = "the chance of a pause of weights must be at least 0 and below 1, not 1"
    with pytest.raises(ValueError, match=message):
        simulation.pause({"weights": 1}, 0)
