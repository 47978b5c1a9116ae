"""Mapping to cells: the area of it all, its function, its loads, what is kept, and what is too large."""

from __future__ import annotations

import re
import subprocess

import pytest

from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import MacroConfig
from flexcim_hw.silicon import synthesis as module
from flexcim_hw.silicon.area import measure_area
from flexcim_hw.silicon.fanout import MAX_LOADS, worst_fanout
from flexcim_hw.silicon.memories import LARGE, MemoryShape
from flexcim_hw.silicon.synthesis import SynthesisError, synthesise
from flexcim_hw.verilog.accelerator import generate_accelerator
from flexcim_hw.verilog.macro import generate
from tests.support.silicon import CELLS, TINY, default_library, design, yosys

pytestmark = pytest.mark.slow

PERIOD = 5.0


@pytest.fixture(scope="module")
def library():
    return default_library()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """What the tests of this file map, they keep."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def tiny(library, cache):
    """A macro of four columns of two cells, mapped."""
    return synthesise(generate(TINY, "gate", init=False), library, cache, PERIOD)


def stat(netlist, library, folder):
    """um^2 of all cells of the netlist, as Yosys counts them."""
    (folder / "netlist.v").write_text(netlist.verilog)
    commands = ["read_verilog netlist.v", f"hierarchy -top {netlist.top}"]
    counted = yosys(folder, *commands, f"tee -q -o out.json stat -json -liberty {library.files[0]} -hierarchy")
    return float(counted["design"]["num_cells"]["area"])


# --- Area ------------------------------------------------------------------------------------------------------------


def test_the_blocks_of_a_macro_add_up_to_what_yosys_counts(tiny, library, tmp_path):
    area = measure_area(tiny, library)
    counted = stat(tiny, library, tmp_path)
    assert area.total == pytest.approx(counted, rel=1e-9)
    assert area.logic + area.memory == area.total == sum(block.total for block in area.blocks)
    assert area.gates == area.total / library.gate
    assert all(block.total > 0 for block in area.blocks)


@pytest.mark.regression
def test_the_blocks_of_an_accelerator_add_up_to_what_yosys_counts(library, cache, tmp_path):
    config = AcceleratorConfig(
        macro=TINY, macros=2, weight_bus=32, activation_bus=32, result_bus=32, activation_memory=0
    )
    netlist = synthesise(generate_accelerator(config, init=False), library, cache, PERIOD)
    area = measure_area(netlist, library)
    # A flip-flop stands at each pin of a large memory in the netlist; its area is no sum of these.
    large = [name for name, one in netlist.modules.items() if one["samples"]]
    assert len(large) == 1
    stand_ins = sum(
        count * library.areas[cell] for name in large for cell, count in netlist.modules[name]["cells"].items()
    )
    carried_on = sum(memory.flip_flops for memory in area.memories if memory.is_large)
    assert area.total - carried_on == pytest.approx(stat(netlist, library, tmp_path) - stand_ins, rel=1e-9)
    assert {block.block for block in area.blocks} >= {"weight feeder", "program sequencer", "registers", "lane muxes"}


def test_memories_are_told_apart(tiny, library):
    area = measure_area(tiny, library)
    found = {(memory.block, memory.count, memory.shape) for memory in area.memories}
    storage = MemoryShape(TINY.banks * TINY.rows, TINY.cell_bits, TINY.rows, 1, registered=False)
    assert ("weight storage", TINY.sub_macros * TINY.columns, storage) in found
    sums = MemoryShape(TINY.accumulator_depth // TINY.sub_macros, 32, 1, 1, registered=True)
    assert ("accumulator memory", TINY.columns * TINY.sub_macros, sums) in found
    # The library gives its latch no area.
    assert all(memory.latches is None for memory in area.memories)


def memory(depth, width):
    """A memory as the generator's are: a clocked read port, which sees the write of its cycle."""
    address = (depth - 1).bit_length()
    return design(f"""
module top(clk, rst, write, from_address, to_address, in, out);
  input clk, rst, write; input [{address - 1}:0] from_address, to_address; input [{width - 1}:0] in;
  output reg [{width - 1}:0] out;
  reg [{width - 1}:0] words [{depth - 1}:0];
  always @(posedge clk) begin
    if (write) words[to_address] <= in;
    out <= (write && from_address == to_address) ? in : words[from_address];
  end
endmodule
""")


@pytest.mark.regression
def test_the_area_of_a_large_memory_follows_from_small_ones(library, cache):
    """The largest that is mapped as it is, against one that has a bit more in each word, and is not."""
    mapped = measure_area(synthesise(memory(128, LARGE // 128), library, cache, PERIOD), library)
    carried_on = measure_area(synthesise(memory(128, LARGE // 128 + 1), library, cache, PERIOD), library)
    assert [one.is_large for one in (*mapped.memories, *carried_on.memories)] == [False, True]
    bits = LARGE // 128
    assert carried_on.memory / mapped.memory == pytest.approx((bits + 1) / bits, rel=0.07)


# --- Function and loads ----------------------------------------------------------------------------------------------


def test_no_net_drives_more_cells_than_it_may(tiny, library, tmp_path):
    (tmp_path / "netlist.v").write_text(tiny.verilog)
    read = [f"read_liberty -lib {library.files[0]}", "read_verilog netlist.v", f"hierarchy -top {tiny.top}"]
    netlist = yosys(tmp_path, *read, "write_json out.json")
    netlist["modules"] = {name: one for name, one in netlist["modules"].items() if "blackbox" not in one["attributes"]}
    worst, where = worst_fanout(netlist, library.inputs)
    assert 4 < worst <= MAX_LOADS, where


BENCH = """
module bench;
  reg clk = 0, rst = 1;
  integer cycle;
  {declarations}
  initial begin
    for (cycle = 0; cycle < 150; cycle = cycle + 1) begin
      rst = cycle < 3;
      {stimuli}
      #5 {comparisons}
      clk = 1;
      #5 clk = 0;
    end
    {verdicts}
    $finish;
  end
endmodule
"""
DECLARATIONS = """
  reg [{inputs}:0] in_{index} = 0; wire [{outputs}:0] rtl_{index}, gate_{index};
  reg [{outputs}:0] before_{index} = 0;
  integer changed_{index} = 0, wrong_{index} = 0;
  {rtl}
  {gate}
"""
COMPARISON = """
      // Some registers do not begin with zero, but the reset's first edge makes them equal.
      if (cycle > 0 && rtl_{index} !== gate_{index}) wrong_{index} = wrong_{index} + 1;
      if (^rtl_{index} !== 1'bx && rtl_{index} !== before_{index}) changed_{index} = changed_{index} + 1;
      before_{index} = rtl_{index};
"""
FLIP_FLOP = """
module DFFPOSX1 (CLK, D, Q); input CLK, D; output reg Q; initial Q = 0; always @(posedge CLK) Q <= D; endmodule
"""

ZEROED = (
    r"^(  reg \[\d+:0\] (\S+) \[(\d+):0\];)",
    r"\1\n  integer i_\2; initial for (i_\2 = 0; i_\2 <= \3; i_\2 = i_\2 + 1) \2[i_\2] = 0;",
)
"""A memory, and with zeros in its words."""


def modules_of(text):
    """The ports of each module of generated Verilog: direction, width, name."""
    found = {}
    for name, body in re.findall(r"^module (\S+)(.*?)^endmodule", text, flags=re.MULTILINE | re.DOTALL):
        ports = re.findall(r"^  (input|output) (?:signed )?(?:\[(\d+):0\] )?(\S+) ?;", body, flags=re.MULTILINE)
        found[name.split("(")[0]] = [(way, int(high or 0) + 1, port) for way, high, port in ports]
    return found


def instance(module, ports, index, side):
    """One of both designs' instances of a module: inputs and outputs as slices of two vectors."""
    place = {"input": 0, "output": 0}
    pins = []
    for way, width, port in ports:
        if port in ("clk", "rst"):
            pins.append(f".{port}({port})")
            continue
        vector = f"in_{index}" if way == "input" else f"{side}_{index}"
        pins.append(f".{port} ({vector}[{place[way] + width - 1}:{place[way]}])")
        place[way] += width
    return f"{module} {side}_instance_{index} ({', '.join(pins)});", place


@pytest.mark.simulator
def test_what_synthesis_gave_does_what_the_verilog_says(tiny, tmp_path):
    """Each module of the design beside its netlist, in Icarus, on random inputs: all outputs are equal."""
    # All begins with zeros, as what is unknown spreads in other ways through gates than through statements.
    rtl = re.sub(*ZEROED, generate(TINY, "rtl").text, flags=re.MULTILINE)
    assert "initial for" in rtl
    parts: dict[str, list[str]] = {"declarations": [], "stimuli": [], "comparisons": [], "verdicts": []}
    modules = modules_of(rtl)
    for index, (name, ports) in enumerate(modules.items()):
        behaviour, width = instance(name + " ", ports, index, "rtl")
        gates, _ = instance(name.replace("rtl", "gate", 1) + " ", ports, index, "gate")
        numbers = {"index": index, "inputs": width["input"] - 1, "outputs": width["output"] - 1}
        parts["declarations"].append(DECLARATIONS.format(rtl=behaviour, gate=gates, **numbers))
        random = ", ".join(["$urandom"] * -(-width["input"] // 32))
        parts["stimuli"].append(f"in_{index} = {{{random}}};")
        parts["comparisons"].append(COMPARISON.format(**numbers))
        shown = f'$display("%0d %0d %0d", {index}, changed_{index}, wrong_{index});'
        parts["verdicts"].append(shown)
    (tmp_path / "rtl.v").write_text(rtl)
    (tmp_path / "gate.v").write_text(tiny.verilog)
    (tmp_path / "bench.v").write_text(BENCH.format(**{name: "\n".join(lines) for name, lines in parts.items()}))
    cells = re.sub(r"^module DFFPOSX1 .*?^endmodule", FLIP_FLOP, CELLS.read_text(), flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "cells.v").write_text(cells)
    sources = ["rtl.v", "gate.v", "bench.v", "cells.v"]
    build = ["iverilog", "-g2012", "-s", "bench", "-o", "bench.vvp", *sources]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    run = subprocess.run(["vvp", "-n", "bench.vvp"], cwd=tmp_path, check=True, capture_output=True, text=True)
    counts = [[int(word) for word in line.split()] for line in run.stdout.splitlines()]
    assert [count[0] for count in counts] == list(range(len(modules)))
    for name, (_, changed, wrong) in zip(modules, counts, strict=True):
        assert wrong == 0, name
        # Random commands soon halt the top with an error.
        assert changed > (1 if name == "rtl" else 50), name


# --- What is kept ----------------------------------------------------------------------------------------------------


def test_a_second_run_takes_all_from_the_cache(tiny, library, cache):
    before = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    again = synthesise(generate(TINY, "gate", init=False), library, cache, PERIOD)
    assert again.modules == tiny.modules
    assert {path.name: path.stat().st_mtime_ns for path in cache.iterdir()} == before


def test_a_module_that_was_kept_by_half_is_mapped_again(library, tmp_path):
    """As after a kill between its two files: the netlist is there, what is known of it is not."""
    verilog = memory(8, 4)
    whole = synthesise(verilog, library, tmp_path, PERIOD)
    facts = sorted(tmp_path.glob("*.json"))
    assert len(facts) == len(whole.modules) == 2
    facts[0].unlink()
    before = facts[1].stat().st_mtime_ns
    assert synthesise(verilog, library, tmp_path, PERIOD).modules == whole.modules
    assert facts[0].exists()
    assert facts[1].stat().st_mtime_ns == before


def test_another_period_or_library_is_another_module(library, tmp_path):
    verilog = memory(8, 4)
    synthesise(verilog, library, tmp_path, 5.0)
    before = len(list(tmp_path.iterdir()))
    synthesise(verilog, library, tmp_path, 2.0)
    assert len(list(tmp_path.iterdir())) == 2 * before


# --- What cannot be mapped -------------------------------------------------------------------------------------------


def test_what_yosys_refuses_is_said_in_its_words(library, tmp_path):
    with pytest.raises(SynthesisError, match=r"Yosys cannot map it to osu018_stdcells: .*syntax error"):
        synthesise(design("module top(; endmodule"), library, tmp_path, PERIOD)
    assert list(tmp_path.iterdir()) == []


def test_a_netlist_that_would_not_fit_into_memory_is_refused_before_it_is_made(library, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda: 1 << 20)
    message = (
        r"the netlist would have about \d\.\d million cells, which take about \d\.\d GiB of memory; 0\.0 GiB are free"
    )
    with pytest.raises(SynthesisError, match=message):
        synthesise(generate(MacroConfig(), init=False), library, tmp_path, PERIOD)
    assert list(tmp_path.iterdir()) == []
