"""The monitor of a macro's runs, on pins that are set by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.macro.commands import RUN_FIELDS, Run
from flexcim_sim.bench.coverage.macro import Handshake, RunMonitor, paused_streams
from flexcim_sim.bench.coverage.model import SeenRun
from flexcim_sim.bench.ends.streams import ContractError
from flexcim_sim.bench.stimuli.macro import with_fields

CONFIG = MacroConfig.from_mapping({"rows": 4, "columns": 4, "activation_port": 16, "result_port": 2})
STREAMS = ("run", "weights", "activations", "results")

# Of 4:8 at G = 1 a beat carries two rows; the four results of a vector take two beats.
TWO_BEATS = Run(bank=1, pattern=Pattern(4, 8), groups=1, rows=4, vectors=1)
ONE_BEAT = replace(TWO_BEATS, rows=1)


@dataclass
class Signal:
    """Stands for a signal of the simulator, whose values print as bits."""

    _name: str
    value: str = "0"


class Pins:
    """Stands for a macro, with the monitor on it."""

    def __init__(self) -> None:
        self.run__payload = Signal("run__payload")
        for stream in STREAMS:
            for pin in ("valid", "ready"):
                setattr(self, f"{stream}__{pin}", Signal(f"{stream}__{pin}"))
        self.told: list[SeenRun] = []
        self.monitor = RunMonitor(self, CONFIG, self.told.append)
        self.handshakes = [Handshake.of(self, stream) for stream in STREAMS[1:]]
        self.cycle = 0

    def clock(self, moves="", pauses="", run=None):
        """A cycle in which streams, told by their first letters, move or pause, and a run may be taken."""
        for stream in STREAMS:
            letter = "c" if stream == "run" else stream[0]  # command; r is for results
            moving, pausing = letter in moves or (letter == "c" and run is not None), letter in pauses
            into_design = stream != "results"
            getattr(self, f"{stream}__valid").value = str(int(moving or (pausing and not into_design)))
            getattr(self, f"{stream}__ready").value = str(int(moving or (pausing and into_design)))
        if run is not None:
            self.run__payload.value = f"{run if isinstance(run, int) else run.payload(CONFIG):b}"
        self.monitor.step(self.cycle, paused_streams(self.handshakes, self.cycle))
        self.cycle += 1

    @property
    def seen(self):
        return [(run.command.bank, run.k_tile, run.k_tiles, sorted(run.stalled)) for run in self.told]


@pytest.fixture
def pins() -> Pins:
    return Pins()


def test_a_run_is_over_with_its_last_result(pins):
    pins.clock(run=TWO_BEATS)
    pins.clock("a")
    pins.clock("a")
    pins.clock("r")
    assert pins.told == []
    pins.clock("r")
    (run,) = pins.told
    assert (run.command, run.k_tile, run.k_tiles, run.position, run.stall) == (TWO_BEATS, 0, 1, "only", "none")


@pytest.mark.parametrize(
    ("cycle", "stalled"), [(0, []), (1, []), (2, ["weights"]), (3, ["weights"]), (4, ["weights"]), (5, ["weights"])]
)
def test_pauses_count_from_the_first_beat_on(cycle, stalled, pins):
    pins.clock(pauses="w" if cycle == 0 else "", run=TWO_BEATS)
    for index, moves in enumerate(["", "a", "a", "r", "r"], start=1):
        pins.clock(moves, pauses="w" if index == cycle else "")
    assert pins.seen == [(1, 0, 1, stalled)]


@pytest.mark.parametrize(("pauses", "name"), [("a", "activations"), ("r", "results"), ("ar", "several"), ("", "none")])
def test_each_stream_is_told_apart(pauses, name, pins):
    pins.clock(run=TWO_BEATS)
    pins.clock("a")
    pins.clock("", pauses)
    for moves in "arr":
        pins.clock(moves)
    assert pins.told[0].stall == name


def test_a_stream_that_the_macro_does_not_wait_for_is_no_pause(pins):
    pins.weights__valid.value = "1"  # offered, not taken
    pins.results__ready.value = "1"  # awaited, not there
    assert paused_streams(pins.handshakes, 0) == []


def test_k_tiles_are_told_of_together(pins):
    places = [(True, False), (False, False), (False, True)]
    for bank, (first_k, last_k) in enumerate(places):
        pins.clock(run=replace(ONE_BEAT, bank=bank % 2, first_k=first_k, last_k=last_k))
        pins.clock("a", pauses="w" if bank == 1 else "")
        assert pins.told == []
    pins.clock("r")
    pins.clock("r")
    assert pins.seen == [(0, 0, 3, []), (1, 1, 3, ["weights"]), (0, 2, 3, [])]
    assert [run.position for run in pins.told] == ["first", "middle", "last"]


def test_a_run_without_results_is_over_with_its_last_beat(pins):
    """Also while results of the run before it are still waited for."""
    pins.clock(run=ONE_BEAT)
    pins.clock("a", run=replace(ONE_BEAT, bank=0, last_k=False))
    pins.clock("a", pauses="r")  # the second run's only beat, while the first one's results are pressed back
    pins.clock("", pauses="w")
    pins.clock("r")
    pins.clock("r", run=replace(ONE_BEAT, bank=0, first_k=False))
    pins.clock("a")
    pins.clock("r")
    pins.clock("r")
    assert pins.seen == [(1, 0, 1, ["results", "weights"]), (0, 0, 2, ["results"]), (0, 1, 2, [])]


def test_a_command_that_comes_with_the_last_beat_of_the_run_before_takes_no_beat_yet(pins):
    pins.clock(run=ONE_BEAT)
    pins.clock("a", run=TWO_BEATS)
    pins.clock("a")
    for _ in range(2):
        pins.clock("r")
    assert len(pins.told) == 1
    pins.clock("a")
    for _ in range(2):
        pins.clock("r")
    assert [run.command for run in pins.told] == [ONE_BEAT, TWO_BEATS]


def test_what_a_reset_breaks_off_is_not_told(pins):
    pins.clock(run=TWO_BEATS)
    pins.clock("a")
    pins.monitor.restart()
    pins.clock(run=ONE_BEAT)
    for moves in "arr":
        pins.clock(moves)
    assert [run.command for run in pins.told] == [ONE_BEAT]


def test_an_illegal_command_is_no_run(pins):
    pins.clock(run=ONE_BEAT)
    pins.clock("a", run=with_fields(ONE_BEAT.payload(CONFIG), RUN_FIELDS, pattern=99))
    for _ in range(2):
        pins.clock("r")
    assert [run.command for run in pins.told] == [ONE_BEAT]


@pytest.mark.parametrize("wrong", [{"pattern": 99}, {"groups": 2}, {"groups": 9}])
def test_beats_of_an_illegal_run_are_an_error(wrong, pins):
    pins.clock(run=with_fields(ONE_BEAT.payload(CONFIG), RUN_FIELDS, **wrong))
    with pytest.raises(ContractError, match="cycle 1: activations were taken for a run that is illegal"):
        pins.clock("a")


@pytest.mark.parametrize(
    ("moves", "message"),
    [
        ("a", "cycle 0: a beat of activations was taken without a run"),
        ("r", "cycle 0: a result was taken that belongs to no run"),
    ],
)
def test_what_belongs_to_no_run_is_an_error(moves, message, pins):
    with pytest.raises(ContractError, match=message):
        pins.clock(moves)
