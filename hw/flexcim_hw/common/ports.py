"""Payload layouts of the streams, of the macro (docs/architecture.md, section 3.1) and between the accelerator's parts.

Arrays are flat bit vectors, element 0 lowest: a field for each element would fill the Verilog with aliases.
"""

from __future__ import annotations

from amaranth.hdl import unsigned
from amaranth.lib import data

from flexcim.accelerator.instructions import INSTRUCTION_BITS, INSTRUCTION_FIELDS, Opcode
from flexcim.config.macro import SUM_BITS, MacroConfig
from flexcim.macro.beats import MULT_BITS, SHIFT_BITS
from flexcim.macro.commands import LOAD_FIELDS, RUN_FIELDS

__all__ = [
    "LOAD_LAYOUT",
    "RUN_LAYOUT",
    "activation_layout",
    "constant_layout",
    "instruction_layout",
    "packet_beat_layout",
    "packet_word_layout",
    "result_layout",
    "weight_layout",
    "word_layout",
]

LOAD_LAYOUT = data.StructLayout({name: unsigned(width) for name, width in LOAD_FIELDS.items()})
"""A load command."""

RUN_LAYOUT = data.StructLayout({name: unsigned(width) for name, width in RUN_FIELDS.items()})
"""A run command."""


def weight_layout(config: MacroConfig) -> data.StructLayout:
    """A beat of ``weights``: q cells, each the weight with the offset above it."""
    return data.StructLayout({"cells": unsigned(config.weight_port * config.cell_bits), "last": 1})


def constant_layout(config: MacroConfig) -> data.StructLayout:
    """A beat of ``constants``: for each output the multiplier with the shift above it."""
    return data.StructLayout({"outputs": unsigned(config.result_port * (MULT_BITS + SHIFT_BITS)), "last": 1})


def activation_layout(config: MacroConfig) -> data.StructLayout:
    """A beat of ``activations``: P signed elements."""
    return data.StructLayout({"elements": unsigned(config.activation_port * config.activation_bits), "last": 1})


def result_layout(config: MacroConfig) -> data.StructLayout:
    """A beat of ``results``: signed elements."""
    return data.StructLayout({"elements": unsigned(config.result_port * SUM_BITS), "last": 1})


def instruction_layout(op: Opcode) -> data.FlexibleLayout:
    """An instruction of the accelerator (docs/architecture.md, section 7.2)."""
    fields = INSTRUCTION_FIELDS[op].items()
    return data.FlexibleLayout(
        INSTRUCTION_BITS, {name: data.Field(unsigned(width), start) for name, (start, width) in fields}
    )


def word_layout(bits: int) -> data.StructLayout:
    """A word of an input bus; ``last`` is its ``tlast``."""
    return data.StructLayout({"data": unsigned(bits), "last": 1})


def packet_beat_layout(bits: int) -> data.StructLayout:
    """A beat of results on its way to the bus; ``end`` marks a packet's last."""
    return data.StructLayout({"elements": unsigned(bits), "end": 1})


def packet_word_layout(bits: int) -> data.StructLayout:
    """A word of the result bus; ``keep`` and ``last`` are its ``tkeep`` and ``tlast``."""
    return data.StructLayout({"data": unsigned(bits), "keep": unsigned(bits // 8), "last": 1})
