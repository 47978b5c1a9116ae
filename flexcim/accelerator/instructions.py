"""The instructions of the accelerator's sequencer: their fields, and the program memory's words (docs/architecture.md,
section 7.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.errors import FlexCiMError

__all__ = [
    "INSTRUCTION_BITS",
    "INSTRUCTION_FIELDS",
    "INSTRUCTION_WORDS",
    "AcceleratorError",
    "AcceleratorProgram",
    "Instruction",
    "LoadTile",
    "Loop",
    "Opcode",
    "ProgramError",
    "RunTiles",
    "decode",
    "encode",
]

INSTRUCTION_BITS = 128
"""Bits of an instruction."""

INSTRUCTION_WORDS = INSTRUCTION_BITS // 32
"""32-bit words of an instruction, the lowest first."""


class Opcode(IntEnum):
    """The ``op`` of an instruction."""

    END = 0
    LOAD = 1
    RUN = 2
    LOOP = 3


INSTRUCTION_FIELDS: Mapping[Opcode, Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        Opcode.END: MappingProxyType({"op": (0, 4)}),
        Opcode.LOAD: MappingProxyType(
            {"op": (0, 4), "bank": (4, 4), "macro": (8, 8), "rows": (20, 12), "words": (64, 24)}
        ),
        Opcode.RUN: MappingProxyType(
            {
                "op": (0, 4),
                "bank": (4, 4),
                "pattern": (8, 8),
                "groups": (16, 4),
                "rows": (20, 12),
                "vectors": (32, 16),
                "macros": (48, 16),
                "words": (64, 24),
                "first_k": (88, 1),
                "last_k": (89, 1),
                "release": (90, 1),
                "replay": (91, 1),
                "store": (92, 1),
                "end_packet": (93, 1),
                "address": (96, 20),
                "beats": (116, 12),
            }
        ),
        Opcode.LOOP: MappingProxyType({"op": (0, 4), "length": (32, 16), "count": (48, 16)}),
    }
)
"""Fields of each instruction: lowest bit and width. All other bits are 0."""


class AcceleratorError(IntEnum):
    """What the accelerator's sticky error names (docs/architecture.md, section 7.3); in one cycle the lower kind
    wins."""

    NONE = 0
    INSTRUCTION = 1
    PROGRAM_END = 2
    LOOP = 3
    MACROS = 4
    MEMORY = 5
    WORDS = 6
    PACKET = 7
    WEIGHTS_LAST = 8
    ACTIVATIONS_LAST = 9
    OVERRUN = 10
    MACRO = 11
    BANK = 12


class ProgramError(FlexCiMError):
    """An instruction that cannot be encoded, or a program that cannot be decoded; the message names it."""


@dataclass(frozen=True, kw_only=True)
class LoadTile:
    """Fill a bank of one macro with the next tile image.

    Parameters
    ----------
    macro, bank : int
        Where to.
    rows : int
        Slot rows of the tile.
    words : int
        Words of its image on the weight bus, as `flexcim.accelerator.bus_words.tile_words` counts them.
    """

    macro: int
    bank: int
    rows: int
    words: int


@dataclass(frozen=True, kw_only=True)
class RunTiles:
    """Multiply vectors by the tiles in a bank of several macros.

    Parameters
    ----------
    macros : tuple of int
        The macros that take part, each once, ascending.
    bank, pattern, groups, rows, vectors, first_k, last_k, release :
        As in `flexcim.macro.commands.Run`, for all of them.
    beats : int
        Activation beats of a vector, `MacroConfig.vector_beats`.
    words : int
        Words of the run image on the activation bus, `flexcim.accelerator.bus_words.run_words`; 0 with ``replay``.
    replay : bool
        Whether the beats come from the activation memory.
    store : bool
        Whether beats from the stream also go there.
    address : int
        The first beat's place in the activation memory; 0 without either.
    end_packet : bool
        Whether the packet of results ends with this run.
    """

    macros: tuple[int, ...]
    bank: int
    pattern: Pattern
    groups: int
    rows: int
    vectors: int
    beats: int
    words: int = 0
    first_k: bool = True
    last_k: bool = True
    release: bool = True
    replay: bool = False
    store: bool = False
    address: int = 0
    end_packet: bool = False


@dataclass(frozen=True, kw_only=True)
class Loop:
    """Carry the next ``length`` instructions out ``count`` times.

    Parameters
    ----------
    length, count : int
        Both at least 1. Loops do not nest.
    """

    length: int
    count: int


Instruction: TypeAlias = LoadTile | RunTiles | Loop


def _pack(op: Opcode, values: Mapping[str, int]) -> int:
    word = int(op)
    for name, value in values.items():
        start, width = INSTRUCTION_FIELDS[op][name]
        if not 0 <= value < 1 << width:
            raise ProgramError(f"{name} of a {op.name} must fit {width} bits, 0 to {(1 << width) - 1}, not {value}")
        word |= value << start
    return word


def encode(instruction: Instruction | None, config: MacroConfig) -> int:
    """An instruction as the 128-bit word of the program memory.

    Parameters
    ----------
    instruction : Instruction or None
        What to encode; None is the ``END``.
    config : MacroConfig
        The macros, whose menu numbers the patterns.

    Raises
    ------
    ProgramError
        If a value does not fit its field.
    ConfigError
        If the pattern is not on the menu.
    """
    if instruction is None:
        return _pack(Opcode.END, {})
    values = dict(vars(instruction))
    if isinstance(instruction, LoadTile):
        return _pack(Opcode.LOAD, values)
    if isinstance(instruction, Loop):
        return _pack(Opcode.LOOP, values)
    if instruction.groups < 1 or instruction.groups.bit_count() != 1:
        raise ProgramError(f"groups of a RUN must be a power of two, not {instruction.groups}")
    config.legal_groups(instruction.pattern)  # says so if the pattern is not on the menu
    if any(macro < 0 for macro in instruction.macros):
        raise ProgramError(f"macros of a RUN must be numbered from 0, not {min(instruction.macros)}")
    values["pattern"] = config.patterns.index(instruction.pattern)
    values["groups"] = instruction.groups.bit_length() - 1
    values["macros"] = sum(1 << macro for macro in set(instruction.macros))
    return _pack(Opcode.RUN, {name: int(value) for name, value in values.items()})


def decode(word: int, config: MacroConfig) -> Instruction | None:
    """The instruction of a 128-bit word; None for the ``END``. The inverse of `encode`.

    Parameters
    ----------
    word : int
        The word, not negative.
    config : MacroConfig
        The macros, whose menu numbers the patterns.

    Raises
    ------
    ProgramError
        If it has no legal opcode, sets a bit that must be 0, or names a pattern that is not on the menu.
    """
    op = word & 15
    if op not in set(Opcode):
        raise ProgramError(f"unknown op {op} in the instruction {word:#034x}")
    fields = INSTRUCTION_FIELDS[Opcode(op)]
    named = sum(((1 << width) - 1) << start for start, width in fields.values())
    if word & ~named:
        raise ProgramError(f"the instruction {word:#034x} sets bits that a {Opcode(op).name} does not have")
    values = {name: word >> start & ((1 << width) - 1) for name, (start, width) in fields.items()}
    del values["op"]
    if op == Opcode.END:
        return None
    if op == Opcode.LOAD:
        return LoadTile(**values)
    if op == Opcode.LOOP:
        return Loop(**values)
    if values["pattern"] >= len(config.patterns):
        raise ProgramError(f"pattern {values['pattern']} is not on the menu of {len(config.patterns)}")
    named_values: dict[str, Any] = {
        name: bool(value) if fields[name][1] == 1 else value for name, value in values.items()
    }
    named_values["macros"] = tuple(macro for macro in range(16) if values["macros"] >> macro & 1)
    named_values["pattern"] = config.patterns[values["pattern"]]
    named_values["groups"] = 1 << values["groups"]
    return RunTiles(**named_values)


@dataclass(frozen=True)
class AcceleratorProgram:
    """Instructions; the ``END`` behind them is understood.

    Parameters
    ----------
    instructions : tuple of Instruction
        In program order: a load before the runs that use it, and after the run that releases its bank.
    """

    instructions: tuple[Instruction, ...]

    def __len__(self) -> int:
        """Instructions in the program memory, the ``END`` included."""
        return len(self.instructions) + 1

    def carried_out(self) -> Iterator[LoadTile | RunTiles]:
        """Loads and runs in the order in which they are dispatched, loops unrolled.

        Raises
        ------
        ProgramError
            If a loop has no legal body.
        """
        position = 0
        while position < len(self.instructions):
            instruction = self.instructions[position]
            position += 1
            if not isinstance(instruction, Loop):
                yield instruction
                continue
            body = self.loop_body(position - 1)
            for _ in range(instruction.count):
                yield from body
            position += instruction.length

    def loop_body(self, position: int) -> tuple[LoadTile | RunTiles, ...]:
        """The instructions that the loop at this position repeats.

        Raises
        ------
        ProgramError
            If it is empty, reaches past the end, or holds a loop.
        """
        loop = self.instructions[position]
        assert isinstance(loop, Loop)
        body = self.instructions[position + 1 : position + 1 + loop.length]
        if loop.count < 1 or loop.length < 1:
            raise ProgramError(f"a loop must have a length and a count of at least 1, not {loop.length}, {loop.count}")
        if len(body) < loop.length:
            raise ProgramError(f"a loop of {loop.length} instructions reaches past the {len(body)} that follow it")
        plain = tuple(instruction for instruction in body if not isinstance(instruction, Loop))
        if len(plain) < len(body):
            raise ProgramError("a loop holds a loop, but loops do not nest")
        return plain

    def words(self, config: MacroConfig) -> NDArray[np.uint32]:
        """The program memory's image, the ``END`` last.

        Parameters
        ----------
        config : MacroConfig
            The macros, whose menu numbers the patterns.

        Returns
        -------
        uint32 [instructions + 1, 4]
            The words of each instruction, the lowest first.

        Raises
        ------
        ProgramError, ConfigError
            If an instruction cannot be encoded.
        """
        encoded = [encode(instruction, config) for instruction in (*self.instructions, None)]
        data = b"".join(word.to_bytes(INSTRUCTION_BITS // 8, "little") for word in encoded)
        return np.frombuffer(data, "<u4").reshape(-1, INSTRUCTION_WORDS).astype(np.uint32)

    @classmethod
    def from_words(cls, words: Sequence[Sequence[int]] | NDArray[np.uint32], config: MacroConfig) -> AcceleratorProgram:
        """Read a program memory's image up to its first ``END``; the inverse of `words`.

        Parameters
        ----------
        words : uint32 [instructions, 4]
            The words of each instruction, the lowest first; what follows an ``END`` is not read.
        config : MacroConfig
            The macros, whose menu numbers the patterns.

        Raises
        ------
        ProgramError
            If an instruction is illegal, or there is no ``END``.
        """
        instructions: list[Instruction] = []
        for row in np.asarray(words, dtype=np.uint32):
            instruction = decode(int.from_bytes(row.astype("<u4").tobytes(), "little"), config)
            if instruction is None:
                return cls(tuple(instructions))
            instructions.append(instruction)
        raise ProgramError(f"the program's {len(instructions)} instructions do not hold an END")
