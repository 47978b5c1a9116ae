"""The parts of the bench that need no simulator: stimuli, the checker, both ends of the streams, and result files."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from random import Random
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.random import Generator

from flexcim.config.macro import PRESETS, MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.macro.commands import RUN_FIELDS, ErrorKind, Run
from flexcim_hw.verilog.macro import GeneratedVerilog
from flexcim_sim.bench.benches.checker import Checker, MismatchError, expect
from flexcim_sim.bench.ends.streams import ContractError, Sink, Source, bursts, held, now_and_then
from flexcim_sim.bench.run.results import write_results
from flexcim_sim.bench.run.runner import Outcome
from flexcim_sim.bench.run.verify import Verification
from flexcim_sim.bench.stimuli.illegal import illegal_stimuli
from flexcim_sim.bench.stimuli.macro import Stimulus, with_fields
from flexcim_sim.bench.stimuli.random import random_mode, random_program
from flexcim_sim.build import simulators
from flexcim_sim.build.simulators import SimulatorError
from flexcim_sim.golden.macro import command_fields

SMALL = MacroConfig(rows=4, columns=4, weight_port=2, result_port=3)
REQUANTIZED = MacroConfig.from_mapping({"requantizer": True}, base=SMALL)
INSTANCES = [SMALL, REQUANTIZED, *(MacroConfig.from_mapping({"rows": 4}, base=base) for base in PRESETS.values())]


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(7)


# --- Stimuli ---------------------------------------------------------------------------------------------------------


def test_fields_of_a_payload_are_replaced():
    run = Run(bank=1, pattern=Pattern(2, 4), groups=2, rows=3, vectors=9, release=False)
    payload = run.payload(SMALL)
    changed = command_fields(with_fields(payload, RUN_FIELDS, rows=77, vectors=0), RUN_FIELDS)
    assert changed == command_fields(payload, RUN_FIELDS) | {"rows": 77, "vectors": 0}


@pytest.mark.parametrize("config", INSTANCES)
def test_random_programs_are_legal_and_of_all_kinds(config, rng):
    runs: list[Run] = []
    for _ in range(10):
        stimulus = random_program(config, rng, layers=6, max_vectors=3)
        assert expect(stimulus).error is ErrorKind.NONE
        program = stimulus.program
        assert len(program.loads) == len(stimulus.loads)
        runs += program.runs
    assert (
        {run.first_k for run in runs} == {run.last_k for run in runs} == {run.release for run in runs} == {True, False}
    )
    assert {run.requantize for run in runs} == {False, config.requantizer}
    assert {run.rows for run in runs} == set(range(1, config.rows + 1))


@pytest.mark.parametrize("config", INSTANCES)
def test_each_kind_of_error_is_provoked(config, rng):
    kinds = [expect(stimulus).error for stimulus in illegal_stimuli(config, rng)]
    possible = set(ErrorKind) - {ErrorKind.NONE}
    possible -= {ErrorKind.LOAD_CONSTANTS} if config.requantizer else {ErrorKind.CONSTANTS_LAST}
    assert set(kinds) == possible


def test_last_is_inverted_where_it_should_be(rng):
    stimulus = Stimulus(SMALL)
    random_mode(stimulus, rng, 0, Pattern(1, 1), 1, 2)
    sound = stimulus.payloads()
    stimulus.loads[0] = replace(stimulus.loads[0], wrong_last=5)
    stimulus.runs[0] = replace(stimulus.runs[0], wrong_last=1)
    changed = stimulus.payloads()
    for stream, beat in (("weights", 5), ("activations", 1)):
        wrong = [i for i, pair in enumerate(zip(sound[stream], changed[stream], strict=True)) if pair[0] != pair[1]]
        assert wrong == [beat]


def test_whole_vectors_and_loads_are_counted(rng):
    config = MacroConfig.from_mapping({"activation_port": 4}, base=SMALL)
    stimulus = Stimulus(config)
    for vectors in (2, 3):
        random_mode(stimulus, rng, 0, Pattern(1, 1), 1, vectors)  # 4 beats to a vector, 32 to a tile
    assert [stimulus.whole_vectors(beats) for beats in (0, 3, 4, 8, 11, 12, 20, 99)] == [0, 0, 1, 2, 2, 3, 5, 5]
    assert [stimulus.whole_loads(beats, 0) for beats in (0, 31, 32, 63, 64)] == [0, 0, 1, 1, 2]
    stimulus.runs[1] = replace(stimulus.runs[1], wrong_last=4)
    assert stimulus.whole_vectors(20) == 3, "a vector that ends wrong is not whole"


# --- Checker ---------------------------------------------------------------------------------------------------------


def checked(rng, config=SMALL):
    """A stimulus of two runs of two vectors, four outputs in two beats each, and its expectation."""
    stimulus = Stimulus(config)
    for _ in range(2):
        random_mode(stimulus, rng, 0, Pattern(4, 8), 1, 2)
    return stimulus, expect(stimulus)


def test_right_results_pass(rng):
    stimulus, expectation = checked(rng)
    checker = Checker(stimulus, expectation)
    for cycle, payload in enumerate(expectation.payloads()):
        assert not checker.complete
        checker.take(payload, cycle)
    assert checker.complete
    assert (checker.beats, checker.results) == (8, 16)
    with pytest.raises(MismatchError, match="cycle 9: a result came after the last one that was expected"):
        checker.take(0, 9)


@pytest.mark.parametrize(
    ("beat", "bit", "message"),
    [
        (0, 0, r"run 0 \(4:8, groups 1\), vector 0: output 0 is .*, but must be .* \(1 of 3 results"),
        (7, 1, r"run 1 \(4:8, groups 1\), vector 1: output 3 is .*, but must be"),
        (2, 3 * 32, r"run 0 .*, vector 1: `last` is True on beat 0, but must be False"),
    ],
)
def test_a_wrong_bit_is_located(beat, bit, message, rng):
    stimulus, expectation = checked(rng)
    payloads = expectation.payloads()
    payloads[beat] ^= 1 << bit
    strict, tolerant = Checker(stimulus, expectation), Checker(stimulus, expectation, strict=False)
    for payload in payloads[:beat]:
        strict.take(payload, 0)
    with pytest.raises(MismatchError, match=message):
        strict.take(payloads[beat], 0)
    for payload in payloads:
        tolerant.take(payload, 0)
    assert tolerant.mismatches == 1
    assert tolerant.payloads == payloads


def test_what_must_come_after_an_error(rng):
    _, expectation = checked(rng)
    assert [expectation.beats(vectors, 2) for vectors in range(5)] == [0, 2, 4, 6, 8]
    assert expectation.beats(4, 1) == 4, "the second run's tile is not there"
    assert expectation.beats(4, 0) == 0


def test_results_are_cut_at_a_misplaced_last(rng):
    stimulus, _ = checked(rng)
    stimulus.runs[1] = replace(stimulus.runs[1], wrong_last=1)
    expectation = expect(stimulus)
    assert expectation.error is ErrorKind.ACTIVATIONS_LAST
    assert [len(run.results) for run in expectation.runs] == [2, 1]


# --- Streams ---------------------------------------------------------------------------------------------------------


@dataclass
class Signal:
    """Stands for a signal of the simulator, whose values print as bits."""

    _name: str
    value: int | str = "0"


class Port:
    """Stands for a macro with a stream x."""

    def __init__(self) -> None:
        self.x__payload = Signal("x__payload")
        self.x__valid = Signal("x__valid")
        self.x__ready = Signal("x__ready")


def test_pauses_have_their_share_and_length():
    assert not any(now_and_then(Random(1), 0.0)() for _ in range(99))
    assert all(now_and_then(Random(1), 1.0)() for _ in range(99))
    stall = bursts(Random(1), 5)
    spans = [len(list(span)) for _, span in itertools.groupby(stall() for _ in range(400))]
    assert len(spans) > 80
    assert max(spans) <= 5
    stall = held(3)
    stalled = [stall() for _ in range(9)]
    assert stalled == sorted(stalled, reverse=True), "one span"
    assert (stalled[0], stalled[-1]) == (True, False)


def test_a_source_keeps_a_beat_until_it_is_taken():
    port = Port()
    source = Source.of(port, "x")
    source.restart([5, 6])
    shown = []
    for cycle, ready in enumerate("0010011"):
        port.x__ready.value = ready
        taken = source.step(cycle)
        shown.append((port.x__valid.value, port.x__payload.value, taken))
    # The first edge shows the first beat; ready before that means nothing.
    assert shown == [
        (1, 5, False),
        (1, 5, False),
        (1, 6, True),
        (1, 6, False),
        (1, 6, False),
        (0, 6, True),
        (0, 6, False),
    ]
    assert source.exhausted
    assert (source.first_cycle, source.last_cycle) == (2, 5)
    assert source.progress == "x 2/2"


def test_a_source_pauses_only_between_beats():
    port = Port()
    source = Source.of(port, "x")
    pauses = iter([True, False, True, True, False])
    source.restart([1, 2], lambda: next(pauses))
    valid = []
    for cycle, ready in enumerate("0001111"):
        port.x__ready.value = ready
        source.step(cycle)
        valid.append(port.x__valid.value)
    assert valid == [0, 1, 1, 0, 0, 1, 0]


def test_an_unknown_ready_is_found():
    port = Port()
    source = Source.of(port, "x")
    source.restart([1])
    source.step(0)
    port.x__ready.value = "X"
    with pytest.raises(ContractError, match="cycle 1: x__ready is X"):
        source.step(1)


def sunk(offers, ready):
    """What a sink took of these (valid, payload), one a cycle, being ready in these cycles."""
    port, taken = Port(), []
    sink = Sink.of(port, "x")
    pauses = iter([not it for it in ready[1:]] + [False])
    sink.restart(lambda payload, cycle: taken.append((cycle, payload)), lambda: next(pauses))
    for cycle, (valid, payload) in enumerate(offers):
        port.x__valid.value, port.x__payload.value = valid, payload
        sink.step(cycle)
    return taken


def test_a_sink_takes_what_is_offered_while_it_is_ready():
    offers = [("1", "101"), ("1", "101"), ("0", "XX"), ("1", "110"), ("1", "111")]
    assert sunk(offers, ready=[0, 1, 1, 1, 1]) == [(1, 5), (3, 6), (4, 7)]


@pytest.mark.parametrize(
    ("offers", "message"),
    [
        ([("1", "10"), ("1", "11")], "cycle 1: x changed its payload before it was taken"),
        ([("1", "10"), ("0", "10")], "cycle 1: x withdrew a beat before it was taken"),
        ([("0", "10"), ("1", "1X")], "cycle 1: x offers unknown bits: 1X"),
        ([("Z", "10")], "cycle 0: x__valid is Z"),
    ],
)
def test_a_sink_finds_what_breaks_the_contract(offers, message):
    with pytest.raises(ContractError, match=message):
        sunk(offers, ready=[0, 1])


# --- Builds ----------------------------------------------------------------------------------------------------------


def design(text):
    """A design without ports."""
    return GeneratedVerilog(text=text, top="top", interface={"ports": []})


@pytest.fixture
def builds(monkeypatch, tmp_path):
    """Where builds go."""
    monkeypatch.setenv("FLEXCIM_BUILD", str(tmp_path))
    return tmp_path / "sim"


@pytest.mark.simulator
def test_a_design_is_built_once(builds, monkeypatch):
    first = simulators.build(design("module top; endmodule"), "icarus")
    assert (first.folder / "sim.vvp").is_file()
    monkeypatch.setattr(simulators, "_build_icarus", lambda *_, **__: pytest.fail("built again"))
    assert simulators.build(design("module top; endmodule"), "icarus") == first


@pytest.mark.simulator
def test_a_build_takes_its_name_only_when_it_is_whole(builds):
    with pytest.raises(SimulatorError, match=r"iverilog could not build the design: .*syntax error.*all of it is in"):
        simulators.build(design("module top; nonsense endmodule"), "icarus")
    assert [path.name for path in builds.iterdir() if path.is_dir()] == []
    assert "nonsense" not in (builds / "failed-iverilog.log").read_text()


@pytest.mark.simulator
def test_the_remains_of_a_killed_build_are_removed(builds):
    folder = simulators.build(design("module top; endmodule"), "icarus").folder
    remains = builds / f".{folder.name}.killed"
    remains.mkdir()
    folder.rename(builds / "away")
    simulators.build(design("module top; endmodule"), "icarus")
    assert not remains.exists()


# --- Results ---------------------------------------------------------------------------------------------------------


def verification(tmp_path, *, passed):
    outcomes = [Outcome("programs", True, 1.5, 640, 99, "")]
    if not passed:
        outcomes.append(Outcome("refusals", False, 0.25, 0, 0, "cycle 3: output 1 is <2>, but must be 3"))
    return Verification(
        label="mine",
        config=SMALL,
        init=True,
        simulator="icarus",
        seed=4,
        outcomes=tuple(outcomes),
        build_seconds=2.0,
        folder=tmp_path,
        waves=None if passed else tmp_path / "dump.vcd",
    )


def test_results_are_written_for_programs_and_for_continuous_integration(tmp_path):
    as_json, as_xml = write_results(tmp_path / "new", [verification(tmp_path, passed=False)])
    document = json.loads(as_json.read_text())
    assert document["passed"] is False
    (entry,) = document["verifications"]
    assert MacroConfig.from_mapping(entry["parameters"]) == SMALL
    assert entry["seed"] == 4
    assert entry["waves"] == str(tmp_path / "dump.vcd")
    assert [test["passed"] for test in entry["tests"]] == [True, False]
    (suite,) = ElementTree.parse(as_xml).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    (failure,) = suite.iter("failure")
    assert failure.get("message") == "cycle 3: output 1 is <2>, but must be 3"


def test_results_say_that_all_is_well(tmp_path):
    as_json, _ = write_results(tmp_path, [verification(tmp_path, passed=True)])
    assert json.loads(as_json.read_text())["passed"] is True
