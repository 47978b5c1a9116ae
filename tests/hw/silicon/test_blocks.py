"""Blocks: every module of a macro and of an accelerator is counted where the architecture page describes it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from flexcim.config.accelerator import AcceleratorConfig
from flexcim_hw.silicon.blocks import BLOCKS, block_of
from flexcim_hw.verilog.accelerator import generate_accelerator
from flexcim_hw.verilog.macro import generate
from tests.support.silicon import TINY

MACRO = {
    "activation_buffer": "activation buffer",
    "window_store": "activation buffer",
    "distribution": "distribution crossbar",
    "distribution_row": "distribution crossbar",
    "sub_macro": "multipliers and adder trees",
    "column": "multipliers and adder trees",
    "column_array": "multipliers and adder trees",
    "merging_column": "merging",
    "merging_column_array": "merging",
    "accumulator": "accumulator logic",
    "accumulator_column": "accumulator logic",
    "accumulator_column_array": "accumulator logic",
    "accumulator_column.memory": "accumulator logic",
    "requantizer": "requantizer",
    "requantizer_lane": "requantizer",
    "result_buffer": "result buffer",
    "result_lane": "result buffer",
    "sequencer": "control",
    "weight_loader": "control",
    "": "control",
}
SHARED = ("sequencer", "weight_loader", "requantizer")
"""Modules that are named after the one that holds them, be that the top or an accelerator's macro."""
ACCELERATOR = {
    "bridge": "registers",
    "registers": "registers",
    "core": "control",
    "core.activation_feeder": "activation feeder",
    "core.activation_feeder.intake": "activation feeder",
    "core.result_merger": "result merger",
    "core.result_merger.outlet": "result merger",
    "core.sequencer": "program sequencer",
    "core.weight_feeder": "weight feeder",
    "core.weight_feeder.intake": "weight feeder",
}


def modules(verilog):
    """The modules of generated Verilog, without the top's name."""
    names = re.findall(r"^module \\?([^\s(]+)", verilog.text, flags=re.MULTILINE)
    return [name.removeprefix(verilog.top).lstrip("._") for name in names]


def test_each_module_of_a_macro_has_its_block():
    verilog = generate(replace(TINY, requantizer=True), init=False)
    found = {name: block_of(f"{verilog.top}_{name}", verilog.top) for name in modules(verilog)}
    assert found == MACRO


def test_each_module_of_an_accelerator_has_its_block():
    verilog = generate_accelerator(AcceleratorConfig(macro=TINY, macros=2), init=False)
    found = {name: block_of(f"{verilog.top}_{name}", verilog.top) for name in modules(verilog)}
    macro = {f"macro.{name}" if name in SHARED else name: block for name, block in MACRO.items()} | {"macro": "control"}
    assert {name: block for name, block in found.items() if name in ACCELERATOR} == ACCELERATOR
    # What else there is: the macro's modules, and the queues of the feeders and of the merger.
    rest = {name: block for name, block in found.items() if name not in ACCELERATOR}
    queues = {name: block for name, block in rest.items() if name.startswith("core.")}
    assert all(block == ACCELERATOR[".".join(name.split(".")[:2])] for name, block in queues.items())
    assert {name: rest[name] for name in rest.keys() - queues.keys()} == {
        name: block for name, block in macro.items() if block != "requantizer"
    }


@pytest.mark.parametrize(
    ("module", "block"),
    [("column.storage", "weight storage"), ("column.lane_muxes", "lane muxes"), ("other", "control")]
    + [(f"accumulator_column.memory.bank_{bank}", "accumulator memory") for bank in range(2)],
)
def test_what_synthesis_sets_apart_has_a_block_of_its_own(module, block):
    assert block_of(f"top_{module}", "top") == block


def test_each_block_is_told_once():
    assert len(set(BLOCKS)) == len(BLOCKS)
