"""The cycle model against a slow reference, vector by vector, written from docs/architecture.md, section 3.3."""

from __future__ import annotations

import re

import numpy as np
import pytest

from flexcim.config.macro import PRESETS, MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.macro.commands import Load, Run
from flexcim.macro.cycles import (
    PIPELINE_CYCLES,
    CycleError,
    paper_cells_per_block,
    paper_layer_cycles,
    program_cycles,
    requantizer_cycles,
    result_entries,
    vector_cycles,
)
from flexcim.macro.program import LoadStep, Program, RunStep
from flexcim.packed.tiling import tile_layer
from tests.support.random_programs import random_program, residencies
from tests.support.simulation import CONFIGS, instance

MACROS = {
    **CONFIGS,
    **PRESETS,
    "requantized": MacroConfig(requantizer=True),
    "one bank": MacroConfig(rows=8, columns=8, banks=1, weight_port=4, result_port=4),
    "slow results": instance("1:1 2:4", sub_macros=2, rows=2, columns=16, bits_per_cycle=8, result_port=1, banks=3),
}
for_each_macro = pytest.mark.parametrize("config", MACROS.values(), ids=MACROS)


# --- The reference ---------------------------------------------------------------------------------------------------


def ceil(dividend, divisor):
    return -(-dividend // divisor)


def phases(config, pattern):
    return ceil(pattern.m - pattern.n + 1, config.lanes)


def issue_time(config, pattern):
    """N = T * A / b."""
    return phases(config, pattern) * config.activation_bits // config.bits_per_cycle


def activation_beats(config, run):
    """ceil(rows / f) beats with f the largest divisor of R for which f * w <= P, or rows * ceil(w / P)."""
    window = config.sub_macros // run.groups // run.pattern.n * run.pattern.m
    if window > config.activation_port:
        return run.rows * ceil(window, config.activation_port)
    fits = [f for f in range(1, config.rows + 1) if config.rows % f == 0 and f * window <= config.activation_port]
    return ceil(run.rows, max(fits))


def result_beats(config, groups):
    return ceil(groups * config.columns, config.result_port)


def reference_entries(config):
    """F: the maximum over the menu of ceil((N + 5 + rb) / max(N, rb))."""
    counts = []
    for pattern in config.patterns:
        for groups in (2**level for level in range(config.sub_macros.bit_length())):
            if config.sub_macros // groups % pattern.n == 0:
                issue, beats = issue_time(config, pattern), result_beats(config, groups)
                counts.append(ceil(issue + 5 + beats, max(issue, beats)))
    return max(counts)


class Reference:
    """Carries a program out, vector by vector."""

    def __init__(self, config, program):
        self.config = config
        self.loads, run_residencies = residencies(program)
        self.next_load = 0
        self.last_weight = 0
        self.free_from = dict.fromkeys(range(config.banks), 1)
        self.occupied = dict.fromkeys(range(config.banks), False)
        self.constants_from = dict.fromkeys(range(config.banks), 0)
        self.left: list[int] = []  # o_last of each vector whose results leave
        self.issued = 0
        self.previous: tuple[int, int] | None = None  # s and N of the vector before
        for run, residency in zip(program.runs, run_residencies, strict=True):
            while residency.last_weight is None:
                self.carry_out_load()
            for _ in range(run.vectors):
                self.carry_out_vector(run, residency)
            if run.requantize:
                self.constants_from[run.bank] = self.freed(self.left[-1]) + 1
            if run.release:
                assert self.previous is not None
                self.free_from[run.bank], self.occupied[run.bank] = sum(self.previous), False

    def carry_out_load(self):
        config, residency = self.config, self.loads[self.next_load]
        command = residency.load.command
        bank = command.bank
        assert not self.occupied[bank], "the program would never finish"
        self.next_load += 1
        first = max(self.last_weight + 1, self.free_from[bank], 1)
        beats = command.rows * config.sub_macros * config.columns // config.weight_port
        self.last_weight = first + beats - 1
        if command.constants:
            # Beside the weights, once no result waits for the old ones.
            first = max(first, self.constants_from[bank])
            self.last_weight = max(self.last_weight, first + ceil(residency.load.constants, config.result_port) - 1)
        residency.last_weight = self.last_weight
        self.occupied[bank] = True

    def freed(self, last_beat):
        """When the result entry becomes free whose last beat leaves in this cycle."""
        return last_beat - (2 if self.config.requantizer else 0)

    def carry_out_vector(self, run, residency):
        config = self.config
        issue, beats = issue_time(config, run.pattern), activation_beats(config, run)
        if self.previous is None:
            earliest = [1 + beats]
        else:
            start, busy = self.previous
            earliest = [start + max(busy, beats)]
        earliest.append(residency.last_weight + 1)
        entries = reference_entries(config)
        if run.last_k and len(self.left) >= entries:
            earliest.append(self.freed(self.left[-entries]) + 1)
        start = max(earliest)
        self.previous = start, issue
        self.issued += issue
        if run.last_k:
            first = start + issue + (7 if config.requantizer else 5)
            if self.left:
                first = max(first, self.left[-1] + 1)
            self.left.append(first + result_beats(config, run.groups) - 1)


# --- Programs --------------------------------------------------------------------------------------------------------


def check(config, program):
    predicted, reference = program_cycles(config, program), Reference(config, program)
    assert predicted.cycles == reference.left[-1]
    assert predicted.issue_cycles == reference.issued


@for_each_macro
def test_random_programs(config):
    rng = np.random.default_rng(36)
    for _ in range(40):
        check(config, random_program(rng, config, steps=int(rng.integers(2, 25)), most_vectors=6))


@for_each_macro
def test_long_runs_are_extrapolated_exactly(config):
    rng = np.random.default_rng(37)
    for _ in range(8):
        check(config, random_program(rng, config, steps=8, most_vectors=400))


@for_each_macro
def test_layers(config):
    for pattern, groups in config.modes:
        outputs, inputs = config.tile_outputs(groups) + 1, 2 * config.tile_inputs(pattern, groups) + 1
        for vectors in (1, 5, 70):
            check(config, tile_layer(config, outputs, inputs, pattern, groups=groups).program(vectors))
            check(config, tile_layer(config, outputs, 1, pattern, groups=groups).program(vectors))


def test_a_program_by_hand():
    """The default instance, 4:8 at G = 1: one row, two vectors. 4 weight beats, 1 beat, N = 8 and 2 result beats."""
    run = Run(bank=0, pattern=Pattern(4, 8), groups=1, rows=1, vectors=2)
    program = Program((LoadStep(Load(bank=0, rows=1), 0), RunStep(run, 0)))
    # Weights in cycles 1-4; starts in 5 and 13, results in 5 + 8 + 5 = 18, 19 and 26, 27.
    assert program_cycles(MacroConfig(), program).cycles == 27
    assert program_cycles(MacroConfig(), program).issue_cycles == 16
    assert program_cycles(MacroConfig(requantizer=True), program).cycles == 29


def test_constants_belong_to_the_runs_of_their_own_load():
    """Two loads with constants, whose runs have different numbers of outputs and may come in the other order."""
    config = MacroConfig(rows=1, columns=8, result_port=1, requantizer=True)
    assert config.weight_beats(1) == 4
    many, few = (
        Run(bank=bank, pattern=Pattern(1, 1), groups=groups, rows=1, vectors=1, requantize=True)
        for bank, groups in ((0, 4), (1, 1))
    )
    loads = [
        LoadStep(Load(bank=run.bank, rows=1, constants=True), 0, config.tile_outputs(run.groups)) for run in (many, few)
    ]
    for runs in ([many, few], [few, many]):
        check(config, Program((*loads, *(RunStep(run, 0) for run in runs))))


def test_a_run_that_is_not_requantized_needs_no_constants():
    """Of more outputs than its load brought constants for, it does not make the load any longer."""
    config = MacroConfig(rows=1, columns=8, result_port=1, requantizer=True)
    some = Run(bank=0, pattern=Pattern(1, 1), groups=1, rows=1, vectors=1, requantize=True, release=False)
    more = Run(bank=0, pattern=Pattern(1, 1), groups=4, rows=1, vectors=1)
    load = LoadStep(Load(bank=0, rows=1, constants=True), 0, 8)
    short, whole = (Program((load, *(RunStep(run, 0) for run in runs))) for runs in ([some, more], [some]))
    check(config, short)
    # Only the other's 32 beats come behind those of the first.
    assert program_cycles(config, short).cycles == program_cycles(config, whole).cycles + 32


@pytest.mark.parametrize(
    ("constants", "count", "message"),
    [
        (True, 0, "a load with constants = True needs those of at least one output, not 0"),
        (False, 4, "a load with constants = False needs those of none, not 4"),
    ],
)
def test_a_load_says_of_how_many_outputs_its_constants_are(constants, count, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        LoadStep(Load(bank=0, rows=1, constants=constants), 0, count)


# --- Programs that never finish --------------------------------------------------------------------------------------


def load(bank):
    return LoadStep(Load(bank=bank, rows=1), 0)


def run(bank, **values):
    return RunStep(Run(bank=bank, pattern=Pattern(1, 1), groups=1, rows=1, vectors=1, **values), 0)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "the program has no run"),
        ([load(0)], "the program has no run"),
        ([run(1)], "a run waits for bank 1, but no load for it follows"),
        ([load(0), run(0), run(0)], "a run waits for bank 0, but no load for it follows"),
        ([load(0), run(1)], "a run waits for bank 1, but no load for it follows"),
        (
            [load(0), load(0), load(1), run(1), run(0)],
            "a load waits for bank 0, which a run that comes later releases",
        ),
    ],
)
def test_what_never_finishes_is_refused(steps, message):
    with pytest.raises(CycleError, match=f"^{re.escape(message)}$"):
        program_cycles(MacroConfig(), Program(tuple(steps)))


def test_a_load_that_nobody_waits_for_is_harmless():
    used = [load(0), run(0)]
    more = [*used, load(1), load(0)]
    assert program_cycles(MacroConfig(), Program(tuple(more))) == program_cycles(MacroConfig(), Program(tuple(used)))


def test_a_bank_that_is_not_released_serves_further_runs():
    steps = load(0), run(0, release=False), run(0, release=False), run(0)
    check(MacroConfig(), Program(steps))


# --- Figures ---------------------------------------------------------------------------------------------------------


@for_each_macro
def test_result_entries_are_those_of_the_contract(config):
    assert result_entries(config) == reference_entries(config)
    assert requantizer_cycles(config) == (2 if config.requantizer else 0)
    assert PIPELINE_CYCLES == 5


def test_result_entries_of_the_default_instance():
    # N = 8 and 8 result beats at G = 4 need ceil(21 / 8).
    assert result_entries(MacroConfig()) == 3
    assert result_entries(MacroConfig(bits_per_cycle=8, columns=4, result_port=16)) == 7


@for_each_macro
def test_vectors_cost_what_the_model_says_in_the_steady_state(config):
    """Two programs that differ in the vectors of one run differ by c for each of them."""
    for pattern, groups in config.modes:
        for rows in {1, config.rows}:
            shared = {"bank": 0, "pattern": pattern, "groups": groups, "rows": rows}
            cycles = [
                program_cycles(
                    config,
                    Program((LoadStep(Load(bank=0, rows=rows), 0), RunStep(Run(**shared, vectors=vectors), 0))),
                ).cycles
                for vectors in (100, 101)
            ]
            assert cycles[1] - cycles[0] == vector_cycles(config, pattern, groups, rows, emits=True)
            silent = vector_cycles(config, pattern, groups, rows, emits=False)
            assert silent == max(issue_time(config, pattern), activation_beats(config, Run(**shared, vectors=1)))


@pytest.mark.parametrize(
    ("pattern", "cells"),
    [("2:4", 3), ("4:8", 7), ("2:8", 6), ("1:1", 1), ("8:8", 1), ("1:2", 1), ("1:4", 2), ("4:5", 4)],
)
def test_cells_that_the_paper_needs_for_a_block(pattern, cells):
    assert paper_cells_per_block(Pattern.parse(pattern)) == cells


def test_layer_cycles_of_the_paper():
    config = MacroConfig()
    # A column has 128 cells, so 42 blocks of 2:4 in 3 cells each: 168 inputs. 600 inputs take 4 tiles, 100 outputs 4.
    assert paper_layer_cycles(config, 100, 600, Pattern(2, 4), 10) == 16 * 10 * 8
    assert paper_layer_cycles(config, 32, 128, Pattern(1, 1), 1) == 8
    assert paper_layer_cycles(config, 33, 129, Pattern(1, 1), 1) == 4 * 8
    assert paper_layer_cycles(config, 1, 18 * 8, Pattern(4, 8), 3) == 3 * 8


def test_a_block_that_no_column_of_the_paper_holds_is_refused():
    with pytest.raises(CycleError, match=r"^a block of 4:11 needs 9 cells, but a column has 8$"):
        paper_layer_cycles(MacroConfig(rows=2), 1, 1, Pattern(4, 11), 1)
