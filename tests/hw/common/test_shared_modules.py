"""Modules that occur many times: emitted once, and the same hardware whether they are placed or elaborated in place."""

from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pytest
from amaranth.back.verilog import YosysError
from amaranth.hdl import Cat, Module, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from flexcim_hw.common.shared_modules import SharedModules, index_shape, place, place_array, place_component
from tests.support.simulation import trace


class Accumulate(wiring.Component):
    """Adds its input up; the total is a combinational step further."""

    def __init__(self) -> None:
        super().__init__({"term": In(4), "enable": In(1), "total": Out(8), "odd": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        register = Signal(8)
        with m.If(self.enable):
            m.d.sync += register.eq(register + self.term)
        m.d.comb += [self.total.eq(register + 1), self.odd.eq(register[0])]
        return m


class Streamed(wiring.Component):
    """Has a port within an interface."""

    def __init__(self) -> None:
        super().__init__({"terms": In(stream.Signature(4)), "total": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.terms.ready.eq(1)
        with m.If(self.terms.valid):
            m.d.sync += self.total.eq(self.total + self.terms.payload)
        return m


class Resettable(wiring.Component):
    """Places a component with a reset of its own."""

    def __init__(self) -> None:
        super().__init__({"term": In(4), "clear": In(1), "total": Out(8), "ready": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        placed = place_component(m, platform, "streamed", "streamed", Streamed, reset=self.clear)
        m.d.comb += [
            placed.terms.payload.eq(self.term),
            placed.terms.valid.eq(1),
            self.total.eq(placed.total),
            self.ready.eq(placed.terms.ready),
        ]
        return m


class Remember(wiring.Component):
    """A memory of half a gigabit."""

    def __init__(self) -> None:
        super().__init__({"address": In(20), "word": In(512), "write": In(1), "found": Out(512)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=unsigned(512), depth=1 << 20, init=[])
        write, read = memory.write_port(), memory.read_port()
        m.d.comb += [write.addr.eq(self.address), write.data.eq(self.word), write.en.eq(self.write)]
        m.d.comb += [read.addr.eq(self.address), self.found.eq(read.data)]
        return m


class Negate(wiring.Component):
    """Has neither clock nor reset."""

    def __init__(self) -> None:
        super().__init__({"word": In(8), "negated": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.negated.eq(-self.word)
        return m


class Sampled(wiring.Component):
    """Has a register that no reset reaches."""

    def __init__(self) -> None:
        super().__init__({"word": In(8), "late": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        register = Signal(8, reset_less=True)
        m.d.sync += register.eq(self.word)
        m.d.comb += self.late.eq(register)
        return m


class Lane(wiring.Component):
    """Shares modules itself."""

    def __init__(self) -> None:
        super().__init__({"term": In(4), "enable": In(1), "result": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        inputs = {"term": self.term, "enable": self.enable}
        first = place(m, platform, "first", "accumulate", Accumulate, inputs)
        second = place(m, platform, "second", "accumulate", Accumulate, inputs | {"enable": first["odd"]})
        sampled = place(m, platform, "sampled", "sampled", Sampled, {"word": first["total"] ^ second["total"]})
        negate = place(m, platform, "negate", "negate", Negate, {"word": sampled["late"]})
        m.d.comb += self.result.eq(negate["negated"])
        return m


class Top(wiring.Component):
    """Three lanes on their own, and an array of accumulators, all with the same enable and each with its own term."""

    LANES = 3

    def __init__(self) -> None:
        super().__init__(
            {
                "terms": In(4 * self.LANES),
                "enable": In(1),
                "results": Out(8 * self.LANES),
                "totals": Out(8 * self.LANES),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = [
            place(
                m,
                platform,
                f"lane_{index}",
                "lane",
                Lane,
                {"term": self.terms.word_select(index, 4), "enable": self.enable},
            )
            for index in range(self.LANES)
        ]
        inputs = {"term": self.terms, "enable": self.enable}
        totals = place_array(m, platform, "counter", "accumulate", Accumulate, self.LANES, inputs)
        m.d.comb += [self.results.eq(Cat(lane["result"] for lane in lanes)), self.totals.eq(totals["total"])]
        return m


@pytest.fixture(scope="module")
def shared():
    modules = SharedModules("toy")
    modules.add(Top(), "toy")
    return modules


@pytest.fixture(scope="module")
def verilog(shared):
    return shared.verilog()


def modules_of(verilog):
    """Each module's text by its name."""
    found = re.findall(r"^module (\S+?) ?\((.*?)^endmodule$", verilog, flags=re.MULTILINE | re.DOTALL)
    assert len({name for name, _ in found}) == len(found)
    return dict(found)


def test_each_module_is_there_once_and_after_those_that_it_instantiates(shared, verilog):
    assert list(shared.texts) == [
        "toy_accumulate",
        "toy_sampled",
        "toy_negate",
        "toy_lane",
        "toy_accumulate_array",
        "toy",
    ]
    assert sorted(modules_of(verilog)) == sorted(shared.texts)
    assert verilog.count("endmodule") == 6


def test_instances_have_their_names(verilog):
    modules = modules_of(verilog)
    instances = {
        name: re.findall(r"^  (toy_\w+) (\w+) \($", text, flags=re.MULTILINE) for name, text in modules.items()
    }
    assert instances["toy"] == [
        ("toy_accumulate_array", "counter"),
        *[("toy_lane", f"lane_{index}") for index in range(3)],
    ]
    assert instances["toy_accumulate_array"] == [("toy_accumulate", f"counter_{index}") for index in range(3)]
    assert sorted(instances["toy_lane"]) == [
        ("toy_accumulate", "first"),
        ("toy_accumulate", "second"),
        ("toy_negate", "negate"),
        ("toy_sampled", "sampled"),
    ]


def test_clock_and_reset_go_where_they_are_needed(verilog):
    ports = {name: set(re.findall(r"\w+", text.split(");")[0])) for name, text in modules_of(verilog).items()}
    clocking = {name: ports[name] & {"clk", "rst"} for name in ports}
    both = {"clk", "rst"}
    assert clocking == {
        "toy": both,
        "toy_lane": both,
        "toy_accumulate": both,
        "toy_accumulate_array": both,
        "toy_sampled": both,
        "toy_negate": set(),
    }
    connected = re.findall(r"\.(clk|rst)\((\w+)\)", modules_of(verilog)["toy_lane"])
    assert sorted(connected) == sorted([("clk", "clk"), ("rst", "rst")] * 3)


BENCH = """
module bench;
  reg clk = 0, rst = 1, enable = 0;
  reg [11:0] terms = 0;
  wire [23:0] results, totals;
  toy dut(.totals(totals), .clk(clk), .rst(rst), .enable(enable), .terms(terms), .results(results));
  initial begin
    #1 clk = 1; #1 clk = 0; rst = 0;
STEPS
  end
endmodule
"""


def test_what_is_placed_works_as_what_is_elaborated_in_place(verilog, tmp_path):
    rng = np.random.default_rng(39)
    stimulus = [{"terms": int(rng.integers(1 << 12)), "enable": int(rng.integers(2))} for _ in range(50)]
    in_place = trace(Top(), stimulus, ["results", "totals"])

    steps = "".join(
        f"    terms = {step['terms']}; enable = {step['enable']}; #1 SHOW clk = 1; #1 clk = 0;\n" for step in stimulus
    ).replace("SHOW", '$display("%0d %0d", results, totals);')
    (tmp_path / "toy.v").write_text(verilog + BENCH.replace("STEPS\n", steps))
    subprocess.run(["iverilog", "-o", "toy", "toy.v"], cwd=tmp_path, check=True)
    run = subprocess.run(["vvp", "toy"], cwd=tmp_path, check=True, capture_output=True, text=True)
    placed = [tuple(map(int, line.split())) for line in run.stdout.splitlines()]
    assert placed == in_place
    assert min(len({step[port] for step in placed}) for port in (0, 1)) > 20


def test_two_designs_fit_into_one_file(verilog):
    other = SharedModules("other")
    other.add(Top(), "other_top")
    assert set(modules_of(other.verilog())).isdisjoint(modules_of(verilog))


def test_the_text_is_the_same_each_time_and_names_no_other_yosys(shared, verilog, monkeypatch, tmp_path):
    (tmp_path / "yosys").write_text("#!/bin/sh\necho Yosys 0.99; exit 1\n")
    (tmp_path / "yosys").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert shutil.which("yosys") == str(tmp_path / "yosys")
    again = SharedModules("toy")
    again.add(Top(), "toy")
    assert again.verilog() == verilog


def test_a_failure_of_yosys_is_an_error(monkeypatch):
    modules = SharedModules("toy")
    modules.add(Negate(), "toy_negate")
    monkeypatch.setitem(modules._texts, "toy_bad", "no RTLIL")
    with pytest.raises(YosysError, match=r"Parser error|syntax error"):
        modules.verilog()


@pytest.mark.parametrize(("count", "bits"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (64, 6), (65, 7)])
def test_an_index_has_as_many_bits_as_it_needs_but_one_at_least(count, bits):
    assert index_shape(count) == unsigned(bits)


def test_without_shared_modules_a_component_is_a_submodule():
    class Wrapper(wiring.Component):
        def __init__(self) -> None:
            super().__init__({"out": Out(8)})
            self.made: list[Negate] = []

        def make(self) -> Negate:
            self.made.append(Negate())
            return self.made[-1]

        def elaborate(self, platform: object) -> Module:
            m = Module()
            outputs = place(m, platform, "part", "negate", self.make, {"word": 3})
            assert m.submodules["part"] is self.made[0]
            assert outputs == {"negated": self.made[0].negated}
            m.d.comb += self.out.eq(outputs["negated"])
            m.d.sync += Signal().eq(0)
            return m

    wrapper = Wrapper()
    assert trace(wrapper, [{}], ["out"]) == [(253,)]
    assert len(wrapper.made) == 1


@pytest.mark.parametrize("platform", [None, SharedModules("toy")])
def test_a_part_of_an_array_is_as_wide_as_its_port(platform):
    m = Module()
    with pytest.raises(ValueError, match=r"^an input of 8 bits in each of 3 components cannot be driven by 20 bits$"):
        place_array(m, platform, "part", "negate", Negate, 3, {"word": Signal(20)})
    Simulator(m)


def test_a_component_with_streams_and_a_reset_of_its_own():
    stimulus = [{"term": 3}, {}, {"clear": 1}, {"clear": 0}, {}]
    seen = trace(Resettable(), stimulus, ["total", "ready"], extra=1)
    assert seen == [(0, 1), (3, 1), (6, 1), (0, 1), (3, 1), (6, 1)]
    shared = SharedModules("top")
    shared.add(Resettable(), "top")
    text = shared.verilog()
    (instance,) = re.findall(r"top_streamed streamed \((.*?)\);", text, flags=re.DOTALL)
    assert {".terms__payload(term)", ".terms__valid(1'h1)"} <= set(re.sub(r"\s", "", instance).split(","))
    reset = re.search(r"\.rst\((.*?)\)", instance)
    assert reset is not None
    assert re.search(rf"assign {re.escape(reset[1].strip())} += rst \| clear;", text)


def test_a_large_memory_is_as_short_as_a_small_one():
    """Its initial words alone would be half a gigabyte of text."""
    shared = SharedModules("large")
    shared.add(Remember(), "large")
    assert len(shared.texts["large"]) < 10_000
    text = shared.verilog()
    assert re.search(r"^  reg \[511:0\] \S+ \[1048575:0\];", text, re.MULTILINE)
    assert "initial" not in text
