"""Payload layouts of the macro's streams (docs/architecture.md, section 3.1).

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
    "result_layout",
    "weight_layout",
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
