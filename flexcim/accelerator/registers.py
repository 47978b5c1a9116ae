"""The accelerator's registers: the one description of which decoder, driver, C header and Markdown table are made
(docs/architecture.md, section 7.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from flexcim.config.accelerator import AcceleratorConfig

__all__ = ["ADDRESS_BITS", "REGISTERS", "VERSION", "Field", "Register", "constant_fields", "register"]

ADDRESS_BITS = 8
"""Bits of a register's address, which counts bytes."""

VERSION = 1
"""Of the register map and the instructions; ID.version."""

_MAGIC = 0xF1EC
"""ID.magic, by which a driver knows that it talks to an accelerator."""


@dataclass(frozen=True)
class Field:
    """A part of a register.

    Parameters
    ----------
    name : str
        Lower case.
    low, width : int
        Its lowest bit and its bits.
    meaning : str
        What it is, for a reader.
    """

    name: str
    low: int
    width: int
    meaning: str

    @property
    def mask(self) -> int:
        """The field's bits in its register."""
        return ((1 << self.width) - 1) << self.low


@dataclass(frozen=True)
class Register:
    """A 32-bit register.

    Parameters
    ----------
    name : str
        Upper case.
    address : int
        In bytes.
    access : str
        ``ro``: the hardware's value. ``rw``: keeps what was written, 0 after reset. ``wo``: a write acts at once and is
        not kept.
    meaning : str
        What it is for, for a reader.
    fields : tuple of Field
        From bit 0 up; other bits read as 0 and are ignored in writes.
    steps_after : str or None
        The register a write to which increases this one by 1.
    """

    name: str
    address: int
    access: str
    meaning: str
    fields: tuple[Field, ...]
    steps_after: str | None = None


REGISTERS: tuple[Register, ...] = (
    Register(
        "ID",
        0x00,
        "ro",
        "What this is.",
        (Field("version", 0, 16, "of the registers and instructions"), Field("magic", 16, 16, f"{_MAGIC:#06x}")),
    ),
    Register(
        "PARAMETERS",
        0x04,
        "ro",
        "What was built.",
        (Field("macros", 0, 8, "macros"), Field("program_depth", 8, 24, "instructions of the program memory")),
    ),
    Register(
        "MEMORY",
        0x08,
        "ro",
        "The activation memory.",
        (Field("beats", 0, 24, "activation beats that it holds, 0 for none"),),
    ),
    Register(
        "CONTROL",
        0x0C,
        "wo",
        "Commands; write 1.",
        (
            Field("start", 0, 1, "start the program at PROGRAM_ENTRY"),
            Field("reset", 1, 1, "reset everything but the contents of memories and the registers that can be written"),
            Field("clear_done", 2, 1, "clear STATUS.done"),
        ),
    ),
    Register(
        "STATUS",
        0x10,
        "ro",
        "What is going on.",
        (
            Field("running", 0, 1, "a program runs"),
            Field("done", 1, 1, "a program has ended; until the next start, reset or CONTROL.clear_done"),
            Field("error", 2, 1, "ERROR.kind is not 0; until a reset"),
        ),
    ),
    Register(
        "ERROR",
        0x14,
        "ro",
        "The first error since the reset.",
        (
            Field("kind", 0, 4, "its kind, 0 for none"),
            Field("macro", 4, 4, "for kind macro: which"),
            Field("macro_kind", 8, 4, "for kind macro: the kind of its error"),
        ),
    ),
    Register(
        "POSITION",
        0x18,
        "ro",
        "Where the sequencer is.",
        (Field("instruction", 0, 17, "the instruction that it fetches or that waits"),),
    ),
    Register(
        "INTERRUPT",
        0x1C,
        "rw",
        "What raises irq.",
        (Field("done", 0, 1, "STATUS.done"), Field("error", 1, 1, "STATUS.error")),
    ),
    Register(
        "PROGRAM_ENTRY",
        0x20,
        "rw",
        "Where a start begins.",
        (Field("instruction", 0, 16, "place of the first instruction"),),
    ),
    Register(
        "PROGRAM_ADDRESS",
        0x24,
        "rw",
        "Where PROGRAM_DATA goes; steps after each write of it.",
        (Field("word", 0, 18, "four times the instruction's place, plus its word"),),
        steps_after="PROGRAM_DATA",
    ),
    Register(
        "PROGRAM_DATA",
        0x28,
        "wo",
        "Writes a word of the program memory.",
        (Field("word", 0, 32, "a quarter of an instruction"),),
    ),
    Register(
        "CYCLES",
        0x2C,
        "ro",
        "Cycles of the program that runs or ran last, modulo 2^32.",
        (Field("count", 0, 32, "cycles"),),
    ),
    Register(
        "WEIGHT_STALLS",
        0x30,
        "ro",
        "Of these, cycles in which a macro could take a weight beat and none was there.",
        (Field("count", 0, 32, "cycles"),),
    ),
    Register(
        "ACTIVATION_STALLS",
        0x34,
        "ro",
        "Of these, cycles in which the macros could take an activation beat and none was there.",
        (Field("count", 0, 32, "cycles"),),
    ),
    Register(
        "RESULT_STALLS",
        0x38,
        "ro",
        "Of these, cycles in which a result word was there and was not taken.",
        (Field("count", 0, 32, "cycles"),),
    ),
)
"""All registers, by address."""


def register(name: str) -> Register:
    """The register of this name.

    Raises
    ------
    KeyError
        If there is none.
    """
    return {entry.name: entry for entry in REGISTERS}[name]


def constant_fields(config: AcceleratorConfig) -> Mapping[tuple[str, str], int]:
    """Values of the fields that tell what was built, by the names of register and field: all that is not 0 after a
    reset."""
    return MappingProxyType(
        {
            ("ID", "version"): VERSION,
            ("ID", "magic"): _MAGIC,
            ("PARAMETERS", "macros"): config.macros,
            ("PARAMETERS", "program_depth"): config.program_depth,
            ("MEMORY", "beats"): config.activation_memory,
        }
    )
