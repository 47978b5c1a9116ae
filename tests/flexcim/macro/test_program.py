"""A program: its two streams keep its order, and a load's constants are what its command says."""

from __future__ import annotations

import re

import pytest

from flexcim.config.pattern import Pattern
from flexcim.macro.commands import Load, Run
from flexcim.macro.program import LoadStep, Program, RunStep, cut_vectors

LOADS = tuple(Load(bank=bank, rows=4) for bank in (0, 1, 0))
RUNS = tuple(
    Run(bank=bank, pattern=Pattern(2, 4), groups=1, rows=4, vectors=vectors)
    for bank, vectors in ((0, 5), (0, 3), (1, 8), (0, 1))
)
PROGRAM = Program(
    (
        LoadStep(LOADS[0], tile=0),
        RunStep(RUNS[0], tile=0),
        LoadStep(LOADS[1], tile=1),
        RunStep(RUNS[1], tile=0, first_vector=5),
        RunStep(RUNS[2], tile=1),
        LoadStep(LOADS[2], tile=2),
        RunStep(RUNS[3], tile=2, first_vector=7),
    )
)


def test_loads_and_runs_are_two_streams_in_the_program_s_order():
    assert PROGRAM.loads == LOADS
    assert PROGRAM.runs == RUNS
    assert [step.tile for step in PROGRAM.load_steps] == [0, 1, 2]
    assert [step.tile for step in PROGRAM.run_steps] == [0, 0, 1, 2]


def test_a_run_multiplies_its_part_of_the_vectors():
    assert [list(range(9))[step.vectors] for step in PROGRAM.run_steps] == [
        [0, 1, 2, 3, 4],
        [5, 6, 7],
        [0, 1, 2, 3, 4, 5, 6, 7],
        [7],
    ]


@pytest.mark.parametrize(
    ("constants", "outputs", "message"),
    [
        (True, 0, "a load with constants = True needs those of at least one output, not 0"),
        (False, 3, "a load with constants = False needs those of none, not 3"),
    ],
)
def test_constants_come_if_the_command_says_so(constants, outputs, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LoadStep(Load(bank=0, rows=1, constants=constants), 0, outputs)
    assert LoadStep(Load(bank=0, rows=1, constants=True), 0, 3).constants == 3


@pytest.mark.parametrize(("vectors", "most"), [(1, 1), (7, 7), (7, 3), (64, 10), (65, 64), (5, 100)])
def test_vectors_are_cut_into_the_fewest_parts_of_nearly_one_size(vectors, most):
    parts = cut_vectors(vectors, most)
    assert [vector for part in parts for vector in part] == list(range(vectors))
    assert len(parts) == -(-vectors // most)
    sizes = {len(part) for part in parts}
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1
