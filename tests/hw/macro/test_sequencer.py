"""The sequencer: when vectors are filled and start, what is issued for them, the banks' states, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from flexcim.config.pattern import Pattern
from flexcim.macro.beats import activation_payload_bits
from flexcim.macro.commands import RUN_FIELDS, ErrorKind, Run
from flexcim.macro.cycles import result_entries
from flexcim_hw.macro.activation_buffer import FillGeometry
from flexcim_hw.macro.sequencer import Sequencer, vector_layout
from tests.support.simulation import CONFIGS, Source, simulate

for_each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
SERIAL, WIDE, REQUANTIZED = (
    CONFIGS[name] for name in ("serial", "two bits, wide windows", "half parallel, requantized")
)


def beats_of(config, run):
    return config.vector_beats(config.window(run.pattern, run.groups), run.rows)


def beat_payloads(config, runs):
    """A payload for each beat of the runs: nothing but ``last``, as the elements go past the sequencer."""
    last = 1 << (activation_payload_bits(config) - 1)
    return [
        last * (beat == beats_of(config, run) - 1)
        for run in runs
        for _ in range(run.vectors)
        for beat in range(beats_of(config, run))
    ]


def random_run(config, rng, **fixed):
    pattern, groups = config.modes[rng.integers(len(config.modes))]
    rows, vectors = int(rng.integers(1, config.rows + 1)), int(rng.integers(1, 6))
    return Run(
        **{
            "bank": int(rng.integers(config.banks)),
            "pattern": pattern,
            "groups": groups,
            "rows": rows,
            "vectors": vectors,
            "release": False,
        }
        | fixed
    )


@dataclass
class Control:
    """What the rest of the macro tells the sequencer in a cycle."""

    halt: int = 0
    bank_done: int = 0
    bank_rows: int = 0
    bank_has_constants: int = 0
    entry_freed: int = 0
    requantized_left: int = 0


@dataclass
class Trace:
    """What a sequencer did: the values of its outputs by cycle, and the cycles in which streams moved."""

    sequencer: Sequencer
    out: dict[str, list[int]] = field(default_factory=dict)
    vectors: list[dict[str, int]] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    beats: list[int] = field(default_factory=list)

    def when(self, name: str) -> list[int]:
        """The cycles in which an output is not 0."""
        return [cycle for cycle, value in enumerate(self.out[name]) if value]

    @property
    def error(self) -> tuple[int, int]:
        """Cycle and kind of the first error."""
        cycle = self.when("error")[0]
        return cycle, self.out["error"][cycle]


OUTPUTS = [
    "free",
    "settled",
    "fill_write",
    "fill_window_code",
    "fill_first_row",
    "fill_window_beat",
    "start",
    "active_rows",
    "shift",
    "issue",
    "phase",
    "first_phase",
    "first_slice",
    "done",
    "error",
]


def play(config, commands, beats, cycles, control, pause=lambda: False):
    """Let a sequencer work on command and beat payloads; ``control`` is asked for each cycle's `Control`."""
    sequencer = Sequencer(config)
    sources = Source(sequencer.run, commands), Source(sequencer.activations, beats, pause)
    trace = Trace(sequencer, {name: [] for name in OUTPUTS})

    async def bench(ctx):
        for cycle in range(cycles):
            for name, value in vars(control(cycle, trace)).items():
                ctx.set(getattr(sequencer, name), value)
            for source in sources:
                source.offer(ctx)
            for source in sources:
                source.take(ctx, cycle)
            for name in OUTPUTS:
                trace.out[name].append(ctx.get(getattr(sequencer, name)))
            vector = ctx.get(sequencer.vector)
            trace.vectors.append({name: vector[name] for name, _ in vector_layout(config)})
            await ctx.tick()

    simulate(sequencer, bench)
    trace.runs, trace.beats = (source.taken for source in sources)
    return trace


def loaded_first(config, rows=None, constants=0):
    """All banks are loaded, one a cycle from cycle 0 on, and results leave in the cycle after their vector's last."""

    def control(cycle, trace):
        left = int(cycle > 0 and trace.out["done"][-1] and trace.vectors[-1]["last_k"])
        return Control(
            bank_done=1 << cycle if cycle < config.banks else 0,
            bank_rows=config.rows if rows is None else rows,
            bank_has_constants=constants,
            entry_freed=left,
        )

    return control


def play_runs(config, runs, control, pause=lambda: False, margin=20):
    """Let a sequencer work on legal runs, long enough for all of them."""
    cost = sum(run.vectors * (config.issue_cycles(run.pattern) + beats_of(config, run)) for run in runs)
    commands = [run.payload(config) for run in runs]
    return play(config, commands, beat_payloads(config, runs), cost + margin, control, pause)


# --- Filling, starting, issuing --------------------------------------------------------------------------------------


@for_each_config
def test_vectors_start_as_often_as_the_contract_says(config):
    rng = np.random.default_rng(25)
    runs = [random_run(config, rng) for _ in range(12)]
    trace = play_runs(config, runs, loaded_first(config))
    assert trace.out["error"] == [0] * len(trace.out["error"])

    # Section 3.3, with banks and entries always there: the first beat is taken in cycle 1, ...
    starts: list[int] = []
    issue = 0
    for run in runs:
        for _ in range(run.vectors):
            beats = beats_of(config, run)
            starts.append(starts[-1] + max(issue, beats) if starts else 1 + beats)
            issue = config.issue_cycles(run.pattern)
    assert trace.beats[0] == 1
    assert trace.when("start") == starts
    # ... and a command is taken with the last beat of the run before it.
    taken = np.cumsum([0] + [run.vectors * beats_of(config, run) for run in runs])[:-1]
    assert trace.runs == [0, *(trace.beats[count - 1] for count in taken[1:])]
    # Within a run, that is the interval.
    run_of_vector = [run for run in runs for _ in range(run.vectors)]
    for (before, run), steps in zip(pairwise(run_of_vector), np.diff(starts), strict=True):
        assert before is not run or steps == trace.sequencer.interval(run.pattern, run.groups, run.rows)


@for_each_config
def test_what_is_issued_for_a_vector(config):
    rng = np.random.default_rng(26)
    runs = [random_run(config, rng, last_k=True) for _ in range(10)]
    trace = play_runs(config, runs, loaded_first(config), pause=lambda: rng.random() < 0.3, margin=400)
    vectors = [(run, index) for run in runs for index in range(run.vectors)]
    starts = trace.when("start")
    assert len(starts) == len(vectors)
    issued: list[int] = []
    for start, (run, index) in zip(starts, vectors, strict=True):
        first, phases = start + Sequencer.latency, config.phases(run.pattern)
        cycles = range(first, first + config.issue_cycles(run.pattern))
        issued += cycles
        steps = [(slice_, phase) for slice_ in range(config.slices) for phase in range(phases)]
        for cycle, (slice_, phase) in zip(cycles, steps, strict=True):
            out = {name: values[cycle] for name, values in trace.out.items()}
            assert out["phase"] == phase
            assert out["first_phase"] == (phase == 0)
            assert out["first_slice"] == (slice_ == 0)
            assert out["shift"] == (phase == phases - 1)
            assert out["done"] == ((slice_, phase) == steps[-1])
            assert trace.vectors[cycle] == {
                "mode": config.modes.index((run.pattern, run.groups)),
                "groups": run.groups.bit_length() - 1,
                "rows": run.rows,
                "bank": run.bank,
                "slot": index * run.groups % (1 << slot_bits(config)),
                "first_k": 1,
                "last_k": 1,
                "requantize": 0,
                "release": 0,
            }
        assert trace.out["active_rows"][start] == (1 << run.rows) - 1
    assert trace.when("issue") == issued
    assert Sequencer.latency == 1


def slot_bits(config):
    """Bits of a slot; a run that bypasses the memory may have more vectors than it has slots."""
    return vector_layout(config)["slot"].width


@for_each_config
def test_beats_go_where_the_buffer_looks_for_them(config):
    rng = np.random.default_rng(27)
    runs = [random_run(config, rng) for _ in range(15)]
    trace = play_runs(config, runs, loaded_first(config), pause=lambda: rng.random() < 0.2, margin=400)
    assert trace.when("fill_write") == trace.beats
    geometry = FillGeometry(config)
    expected = []
    for run in runs:
        window = config.window(run.pattern, run.groups)
        for _ in range(run.vectors):
            for beat in range(beats_of(config, run)):
                row, part = divmod(beat, geometry.beats_per_window(window))
                expected.append((geometry.windows.index(window), row * geometry.rows_per_beat(window), part))
    names = "fill_window_code", "fill_first_row", "fill_window_beat"
    assert [tuple(trace.out[name][cycle] for name in names) for cycle in trace.beats] == expected


def test_the_last_vector_of_a_run_releases_the_bank_and_no_other():
    runs = [random_run(SERIAL, np.random.default_rng(28), bank=1, vectors=3, release=True)]
    trace = play_runs(SERIAL, runs, loaded_first(SERIAL))
    assert [trace.vectors[cycle]["release"] for cycle in trace.when("done")] == [0, 0, 1]
    # A bank is free with the last issue cycle, so that the next load's first beat follows the contract's w_first.
    last = trace.when("done")[-1]
    assert [free >> 1 & 1 for free in trace.out["free"][last - 1 : last + 2]] == [0, 1, 1]
    assert trace.out["free"][-1] == 0b10


# --- Waiting ---------------------------------------------------------------------------------------------------------


def test_a_vector_waits_until_its_bank_is_loaded():
    run = random_run(WIDE, np.random.default_rng(29), bank=2, vectors=2)

    def control(cycle, trace):
        return Control(bank_done={5: 0b001, 30: 0b100}.get(cycle, 0), bank_rows=WIDE.rows)

    trace = play_runs(WIDE, [run], control, margin=60)
    assert trace.when("start")[0] == 31
    # Two vectors of beats: one in the fill half until the bank is there, the other while the first is issued.
    assert sum(cycle < 31 for cycle in trace.beats) == beats_of(WIDE, run)


def test_a_released_bank_is_not_used_until_it_is_loaded_again():
    rng = np.random.default_rng(30)
    runs = [random_run(SERIAL, rng, bank=0, vectors=1, release=True) for _ in range(2)]

    def control(cycle, trace):
        return Control(bank_done=int(cycle in (0, 100)), bank_rows=SERIAL.rows)

    trace = play_runs(SERIAL, runs, control, margin=120)
    first, second = trace.when("start")
    assert first == 1 + beats_of(SERIAL, runs[0])
    assert second == 101
    free = [cycle for cycle, banks in enumerate(trace.out["free"]) if banks & 1]
    assert set(range(1, trace.when("done")[0])).isdisjoint(free)
    assert set(range(trace.when("done")[0], 101)) <= set(free)
    assert trace.out["free"][101] == 0b10


@pytest.mark.parametrize("config", [SERIAL, REQUANTIZED])
def test_a_vector_waits_for_room_for_its_results(config):
    """F vectors start; the next ones start one cycle after an entry was freed, and not before."""
    entries = result_entries(config)
    run = Run(bank=0, pattern=Pattern(1, 1), groups=1, rows=1, vectors=entries + 3, release=False)
    cost = entries * max(config.issue_cycles(run.pattern), beats_of(config, run)) + 40
    frees = [cost, cost + 50, cost + 51]

    def control(cycle, trace):
        return Control(bank_done=int(cycle == 0), bank_rows=config.rows, entry_freed=int(cycle in frees))

    trace = play_runs(config, [run], control, margin=cost + 200)
    starts = trace.when("start")
    assert len(starts) == entries + 3
    assert starts[entries - 1] < cost
    issue = config.issue_cycles(run.pattern)
    assert starts[entries:] == [cost + 1, cost + 51, cost + 51 + issue]


def test_a_vector_that_leaves_no_result_needs_no_room():
    entries = result_entries(SERIAL)
    fit = SERIAL.accumulator_depth
    runs = [
        Run(bank=0, pattern=Pattern(1, 1), groups=1, rows=1, vectors=fit, first_k=k == 0, last_k=False, release=False)
        for k in range(1 + entries // fit)
    ]
    trace = play_runs(SERIAL, runs, lambda cycle, trace: Control(bank_done=int(cycle == 0), bank_rows=SERIAL.rows))
    assert len(trace.when("start")) == fit * len(runs) > entries


def test_a_halted_sequencer_takes_nothing_but_starts_a_full_vector():
    run = Run(bank=0, pattern=Pattern(1, 1), groups=1, rows=3, vectors=3, release=False)

    def control(cycle, trace):
        return Control(halt=int(cycle > 8), bank_done=int(cycle == 20), bank_rows=3)

    trace = play_runs(SERIAL, [run, run], control)
    assert max(trace.beats) <= 8
    assert trace.when("start") == [21]


def test_constants_are_settled_when_no_requantized_vector_waits():
    runs = [
        Run(bank=1, pattern=Pattern(1, 1), groups=1, rows=1, vectors=2, requantize=True, release=False),
        Run(bank=1, pattern=Pattern(1, 1), groups=1, rows=1, vectors=1, requantize=False, release=False),
    ]
    left = [80, 90]

    def control(cycle, trace):
        return Control(
            bank_done=0b10 * (cycle == 0),
            bank_rows=6,
            bank_has_constants=1,
            requantized_left=0b10 * (cycle in left),
            entry_freed=int(cycle in left),
        )

    trace = play_runs(REQUANTIZED, runs, control, margin=100)
    first = trace.when("start")[0]
    unsettled = [cycle for cycle, settled in enumerate(trace.out["settled"]) if not settled >> 1 & 1]
    assert unsettled == list(range(first + 1, 91))
    assert all(settled & 1 for settled in trace.out["settled"])


# --- Errors ----------------------------------------------------------------------------------------------------------

LEGAL = {"bank": 0, "pattern": 0, "groups": 0, "rows": 3, "vectors": 2, "first_k": 1, "last_k": 1, "requantize": 0}


def payload_of(**values: int) -> int:
    """A run command from raw fields."""
    payload, position = 0, 0
    fields: dict[str, Any] = {"release": 0} | LEGAL | values
    for name, width in RUN_FIELDS.items():
        assert 0 <= fields[name] < 1 << width
        payload |= fields[name] << position
        position += width
    return payload


# SERIAL: S = 4, R = 3, D = 8, two banks, 1:1 is pattern 0 and 2:4 pattern 3.
@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"bank": 2}, ErrorKind.RUN_BANK),
        ({"bank": 15, "pattern": 6}, ErrorKind.RUN_BANK),
        ({"pattern": 6}, ErrorKind.RUN_PATTERN),
        ({"pattern": 255, "groups": 3}, ErrorKind.RUN_PATTERN),
        ({"groups": 3}, ErrorKind.RUN_GROUPS),
        ({"groups": 15, "rows": 0}, ErrorKind.RUN_GROUPS),
        ({"pattern": 3, "groups": 2}, ErrorKind.RUN_GROUPS),
        ({"pattern": 1, "groups": 1}, ErrorKind.RUN_GROUPS),
        ({"rows": 0}, ErrorKind.RUN_ROWS),
        ({"rows": 4, "vectors": 0}, ErrorKind.RUN_ROWS),
        ({"rows": 65535}, ErrorKind.RUN_ROWS),
        ({"vectors": 0}, ErrorKind.RUN_VECTORS),
        ({"vectors": 9, "last_k": 0}, ErrorKind.RUN_VECTORS),
        ({"vectors": 9, "first_k": 0}, ErrorKind.RUN_VECTORS),
        ({"vectors": 3, "last_k": 0, "groups": 2}, ErrorKind.RUN_VECTORS),
        ({"vectors": 65535, "first_k": 0, "groups": 2}, ErrorKind.RUN_VECTORS),
        ({"first_k": 0}, ErrorKind.RUN_ORDER),
        ({"first_k": 0, "last_k": 0, "requantize": 1}, ErrorKind.RUN_ORDER),
        ({"requantize": 1}, ErrorKind.RUN_REQUANTIZE),
        ({"requantize": 1, "last_k": 0}, ErrorKind.RUN_REQUANTIZE),
    ],
)
def test_illegal_commands_are_refused(values, kind):
    trace = play(SERIAL, [payload_of(**values)], [0] * 5, 30, loaded_first(SERIAL))
    assert trace.error == (0, kind)
    assert trace.beats == trace.when("start") == []


@pytest.mark.parametrize(
    "values",
    [
        {"vectors": 8, "last_k": 0},
        {"vectors": 2, "last_k": 0, "groups": 2},
        {"vectors": 65535},
        {"vectors": 65535, "groups": 2},
        {"pattern": 5, "groups": 2},
        {"bank": 1},
    ],
)
def test_commands_at_the_edge_are_legal(values):
    trace = play(SERIAL, [payload_of(**values)], [], 10, loaded_first(SERIAL))
    assert not any(trace.out["error"])
    assert trace.runs == [0]


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        ({"last_k": 0}, {}, ErrorKind.RUN_ORDER),
        ({"last_k": 0}, {"first_k": 0, "groups": 1}, ErrorKind.RUN_ORDER),
        ({"last_k": 0}, {"first_k": 0, "vectors": 1}, ErrorKind.RUN_ORDER),
        ({}, {"first_k": 0}, ErrorKind.RUN_ORDER),
        ({"last_k": 0}, {"first_k": 0}, None),
        ({"last_k": 0}, {"first_k": 0, "last_k": 0, "pattern": 3}, None),
        ({}, {"last_k": 0}, None),
    ],
)
def test_the_order_of_k_tiles(first, second, kind):
    run = Run(bank=0, pattern=Pattern(1, 1), groups=1, rows=3, vectors=2)
    beats = beat_payloads(SERIAL, [run])
    trace = play(SERIAL, [payload_of(**first), payload_of(**second)], beats, 40, loaded_first(SERIAL))
    assert len(trace.runs) == 2
    assert (trace.error[1] if any(trace.out["error"]) else None) == kind


def test_a_run_of_more_rows_than_its_bank_holds_is_refused_when_it_would_start():
    run = Run(bank=1, pattern=Pattern(1, 1), groups=1, rows=3, vectors=1)
    trace = play_runs(SERIAL, [run], loaded_first(SERIAL, rows=2))
    assert trace.error == (1 + beats_of(SERIAL, run), ErrorKind.RUN_ROWS)
    assert trace.when("start") == []
    assert play_runs(SERIAL, [run], loaded_first(SERIAL, rows=3)).when("start")


def test_requantizing_needs_the_banks_constants_and_the_last_k_tile():
    run = Run(bank=0, pattern=Pattern(1, 1), groups=1, rows=3, vectors=1, requantize=True)
    trace = play_runs(REQUANTIZED, [run], loaded_first(REQUANTIZED))
    assert trace.error == (1 + beats_of(REQUANTIZED, run), ErrorKind.RUN_REQUANTIZE)
    assert trace.when("start") == []
    assert play_runs(REQUANTIZED, [run], loaded_first(REQUANTIZED, constants=1)).when("start")
    command = payload_of(requantize=1, last_k=0)
    assert play(REQUANTIZED, [command], [], 5, loaded_first(REQUANTIZED)).error == (0, ErrorKind.RUN_REQUANTIZE)


@pytest.mark.parametrize("config", [SERIAL, WIDE])
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_misplaced_last_of_the_activations_is_refused(config, place):
    run = Run(bank=0, pattern=config.patterns[0], groups=1, rows=config.rows, vectors=2)
    runs = [run, run] if config is SERIAL else [run]
    beats = beat_payloads(config, runs)
    per_vector = beats_of(config, run)
    # In the second vector: 'last' on its first beat, or none on its last.
    wrong = per_vector if place == "first" and per_vector > 1 else 2 * per_vector - 1
    beats[wrong] ^= 1 << (activation_payload_bits(config) - 1)
    commands = [item.payload(config) for item in runs]
    trace = play(config, commands, beats, 100, loaded_first(config))
    assert trace.error == (trace.beats[wrong], ErrorKind.ACTIVATIONS_LAST)


def test_the_smallest_instance_issues_a_vector_every_cycle():
    config = CONFIGS["one sub-macro"]
    run = Run(bank=0, pattern=Pattern(1, 1), groups=1, rows=1, vectors=4)
    trace = play_runs(config, [run], loaded_first(config))
    assert np.diff(trace.when("start")).tolist() == [1, 1, 1]
