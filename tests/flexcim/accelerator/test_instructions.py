"""Instructions: their fields do not overlap, they come back from their words, and wrong ones are told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flexcim.accelerator.instructions import (
    INSTRUCTION_BITS,
    INSTRUCTION_FIELDS,
    AcceleratorProgram,
    LoadTile,
    Loop,
    Opcode,
    ProgramError,
    RunTiles,
    decode,
    encode,
)
from flexcim.config.errors import ConfigError
from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern

CONFIG = MacroConfig()
LOAD = LoadTile(macro=3, bank=1, rows=32, words=176)
RUN = RunTiles(
    macros=(0, 2, 15),
    bank=1,
    pattern=Pattern(2, 4),
    groups=2,
    rows=31,
    vectors=64,
    beats=4,
    words=99,
    first_k=False,
    last_k=True,
    release=False,
    store=True,
    address=1023,
    end_packet=True,
)


@pytest.mark.parametrize("op", Opcode)
def test_fields_lie_beside_each_other_and_in_one_word_each(op):
    used = 0
    for start, width in INSTRUCTION_FIELDS[op].values():
        mask = ((1 << width) - 1) << start
        assert not used & mask
        assert start // 32 == (start + width - 1) // 32
        used |= mask
    assert used < 1 << INSTRUCTION_BITS


def test_the_places_of_a_runs_fields_are_those_of_the_contract():
    word = encode(RUN, CONFIG)
    pattern = CONFIG.patterns.index(Pattern(2, 4))
    assert word & 0xFFFF_FFFF == 2 | 1 << 4 | pattern << 8 | 1 << 16 | 31 << 20
    assert word >> 32 & 0xFFFF_FFFF == 64 | (1 | 1 << 2 | 1 << 15) << 16
    assert word >> 64 & 0xFFFF_FFFF == 99 | 1 << 25 | 1 << 28 | 1 << 29
    assert word >> 96 == 1023 | 4 << 20


@pytest.mark.parametrize(
    "instruction", [LOAD, RUN, replace(RUN, words=0, store=False, replay=True), Loop(length=3, count=9), None]
)
def test_an_instruction_comes_back(instruction):
    assert decode(encode(instruction, CONFIG), CONFIG) == instruction


def test_a_program_comes_back_up_to_its_end():
    program = AcceleratorProgram((LOAD, RUN, Loop(length=1, count=2), LOAD))
    words = program.words(CONFIG)
    assert words.dtype == np.uint32
    assert words.shape == (len(program), 4) == (5, 4)
    assert AcceleratorProgram.from_words(np.concatenate([words, words]), CONFIG) == program


def test_loops_are_unrolled():
    other = replace(LOAD, bank=0)
    program = AcceleratorProgram((LOAD, Loop(length=2, count=3), other, RUN, LOAD))
    assert list(program.carried_out()) == [LOAD, *[other, RUN] * 3, LOAD]


@pytest.mark.parametrize(
    ("instructions", "message"),
    [
        ((Loop(length=0, count=1),), "a loop must have a length and a count of at least 1, not 0, 1"),
        ((Loop(length=1, count=0), LOAD), "a loop must have a length and a count of at least 1, not 1, 0"),
        ((Loop(length=2, count=1), LOAD), "a loop of 2 instructions reaches past the 1 that follow it"),
        ((Loop(length=2, count=1), Loop(length=1, count=1), LOAD), "a loop holds a loop, but loops do not nest"),
    ],
)
def test_a_wrong_loop_is_told(instructions, message):
    with pytest.raises(ProgramError, match=f"^{message}$"):
        list(AcceleratorProgram(instructions).carried_out())


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        (replace(LOAD, words=1 << 24), "words of a LOAD must fit 24 bits, 0 to 16777215, not 16777216"),
        (replace(RUN, beats=4096), "beats of a RUN must fit 12 bits, 0 to 4095, not 4096"),
        (replace(RUN, groups=3), "groups of a RUN must be a power of two, not 3"),
        (replace(RUN, macros=(16,)), "macros of a RUN must fit 16 bits, 0 to 65535, not 65536"),
        (replace(RUN, macros=(-1,)), "macros of a RUN must be numbered from 0, not -1"),
        (Loop(length=-1, count=1), "length of a LOOP must fit 16 bits, 0 to 65535, not -1"),
    ],
)
def test_what_does_not_fit_is_told(instruction, message):
    with pytest.raises(ProgramError, match=f"^{message}$"):
        encode(instruction, CONFIG)


def test_a_pattern_off_the_menu_is_told():
    with pytest.raises(ConfigError, match="pattern 3:7 is not on the menu"):
        encode(replace(RUN, pattern=Pattern(3, 7)), CONFIG)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (9, "unknown op 9 in the instruction 0x0+9"),
        (1 << 16 | 1, "sets bits that a LOAD does not have"),
        (2 | 200 << 8, "pattern 200 is not on the menu of 12"),
    ],
)
def test_a_word_that_is_no_instruction_is_told(word, message):
    with pytest.raises(ProgramError, match=message):
        decode(word, CONFIG)


def test_a_program_without_an_end_is_told():
    words = AcceleratorProgram((LOAD, RUN)).words(CONFIG)[:-1]
    with pytest.raises(ProgramError, match="the program's 2 instructions do not hold an END"):
        AcceleratorProgram.from_words(words, CONFIG)
