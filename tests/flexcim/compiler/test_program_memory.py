"""Programs: what loops and splits carry out is what was given, in the fewest instructions where that is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flexcim.accelerator.instructions import LoadTile, Loop, RunTiles
from flexcim.compiler.program_memory import make_programs
from flexcim.config.pattern import Pattern


def load(bank):
    return LoadTile(macro=0, bank=bank, rows=1, words=1)


def run(bank, last_k=True, address=0):
    return RunTiles(
        macros=(0,),
        bank=bank,
        pattern=Pattern(1, 1),
        groups=1,
        rows=1,
        vectors=1,
        beats=1,
        words=1,
        last_k=last_k,
        address=address,
    )


def carried(programs):
    """All that programs carry out, without their packets' ends."""
    for program in programs:
        for one in program.carried_out():
            yield replace(one, end_packet=False) if isinstance(one, RunTiles) else one


def test_what_fits_is_left_as_it_is():
    given = [load(0), run(0)] * 5
    (program,) = make_programs(given, 11)
    assert len(program) == 11
    assert list(program.instructions[:-1]) == given[:-1]
    assert program.instructions[-1] == replace(run(0), end_packet=True)


def test_a_repetition_becomes_one_loop():
    given = [load(0), run(0), load(1), run(1)] * 50
    (program,) = make_programs(given, 6)
    assert program.instructions[0] == Loop(length=4, count=50)
    assert list(carried([program])) == given
    assert replace(run(1), end_packet=True) in program.instructions


def test_a_loop_may_stand_among_others_and_in_one_program_of_several():
    head, body = [load(bank) for bank in range(5)], [run(0), load(0)]
    given = head + body * 20 + [run(3), run(4)]
    for depth in range(2, 60):
        programs = make_programs(given, depth)
        assert list(carried(programs)) == given
        assert all(len(program) <= depth for program in programs)
    assert len(make_programs(given, 11)) == 1
    assert len(make_programs(given, 10)) == 2


def test_more_passes_than_a_loop_can_count_are_several_loops():
    given = [load(0), run(0)] * 70_000
    (program,) = make_programs(given, 8)
    assert [one.count for one in program.instructions if isinstance(one, Loop)] == [65535, 4465]
    assert sum(1 for _ in carried([program])) == len(given)


def test_programs_end_behind_complete_sums_where_they_can():
    given = [run(0, last_k=index % 4 == 3, address=index) for index in range(40)]
    programs = make_programs(given, 12)
    assert [len(program) - 1 for program in programs] == [8, 8, 8, 8, 8]
    assert all(getattr(program.instructions[-1], "end_packet", False) for program in programs)
    # With less room than the sums need, memory is filled, and a packet that was begun is ended.
    assert [len(program) - 1 for program in make_programs(given, 4)][:2] == [3, 3]


@pytest.mark.parametrize("depth", [2, 3])
def test_the_smallest_program_memories_do(depth):
    given = [load(0), run(0, last_k=False), load(0), run(0)] * 3
    assert list(carried(make_programs(given, depth))) == given
