"""Instructions as programs that fit the program memory: repetitions become loops, and what is left over is split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from flexcim.accelerator.instructions import INSTRUCTION_FIELDS, AcceleratorProgram, LoadTile, Loop, Opcode, RunTiles

__all__ = ["make_programs"]

_Plain: TypeAlias = LoadTile | RunTiles
_MAX_COUNT = (1 << INSTRUCTION_FIELDS[Opcode.LOOP]["count"][1]) - 1
_MAX_LENGTH = (1 << INSTRUCTION_FIELDS[Opcode.LOOP]["length"][1]) - 1

_PERIODS = 64
"""Periods that are tried at each place. The first ones are those of the tiles along the inputs, teams and banks."""


def make_programs(instructions: Sequence[_Plain], depth: int) -> tuple[AcceleratorProgram, ...]:
    """Make programs of loads and runs, to be carried out one after the other.

    If one program holds them all, nothing is changed. Otherwise repetitions become loops, each of which costs a
    dispatch, and the rest is split; behind a run that completes its sums, unless that leaves half of the memory empty.
    In each program, the last run whose results leave ends the packet; within a loop, it does so each time.

    Parameters
    ----------
    instructions : sequence of LoadTile and RunTiles
        What to carry out.
    depth : int
        Instructions that the program memory holds, at least 2.
    """
    room = depth - 1  # for the END
    blocks: list[tuple[Loop | _Plain, ...]] = [(one,) for one in instructions]
    if len(instructions) > room:
        blocks = _roll(instructions, min(room - 1, _MAX_LENGTH))
    return tuple(AcceleratorProgram(tuple(_end_packet(part))) for part in _split(blocks, room))


def _roll(instructions: Sequence[_Plain], longest: int) -> list[tuple[Loop | _Plain, ...]]:
    """Blocks that must stay together: a loop with its body of at most ``longest``, or one instruction."""
    numbers: dict[_Plain, int] = {}
    ids = np.array([numbers.setdefault(one, len(numbers)) for one in instructions], np.int64)
    blocks: list[tuple[Loop | _Plain, ...]] = []
    position = 0
    while position < len(ids):
        period, count = _repetition(ids[position:], longest)
        if (count - 1) * period > 1:  # a loop of one instruction twice saves nothing
            count = min(count, _MAX_COUNT)
            body = instructions[position : position + period]
            blocks.append((Loop(length=period, count=count), *body))
            position += period * count
        else:
            blocks.append((instructions[position],))
            position += 1
    return blocks


def _repetition(ids: NDArray[np.int64], longest: int) -> tuple[int, int]:
    """Period and count of the repetition at the beginning that saves most."""
    best = 1, 1
    for period in (np.flatnonzero(ids[1 : longest + 1] == ids[0])[:_PERIODS] + 1).tolist():
        if not np.array_equal(ids[:period], ids[period : 2 * period]):
            continue
        differs = ids[period:] != ids[:-period]
        equal = int(np.argmax(differs)) if differs.any() else len(differs)
        count = equal // period + 1
        if (count - 1) * period > (best[1] - 1) * best[0]:
            best = period, count
    return best


def _split(blocks: Sequence[tuple[Loop | _Plain, ...]], room: int) -> list[list[Loop | _Plain]]:
    """Parts of at most ``room`` instructions."""
    parts: list[list[Loop | _Plain]] = []
    first = 0
    while first < len(blocks):
        size, stop = 0, first
        clean, clean_size = first, 0
        while stop < len(blocks) and size + len(blocks[stop]) <= room:
            size += len(blocks[stop])
            stop += 1
            last = blocks[stop - 1][-1]
            if isinstance(last, RunTiles) and last.last_k:
                clean, clean_size = stop, size
        # A short program costs the host more than sums that wait for the next one.
        if stop < len(blocks) and 2 * clean_size >= room:
            stop = clean
        parts.append([one for block in blocks[first:stop] for one in block])
        first = stop
    return parts


def _end_packet(part: list[Loop | _Plain]) -> list[Loop | _Plain]:
    for place in reversed(range(len(part))):
        one = part[place]
        if isinstance(one, RunTiles) and one.last_k:
            part[place] = replace(one, end_packet=True)
            break
    return part
