"""The clock: the slowest path of a hierarchy by the names of its modules, periods that cannot be met, a missing sta."""

from __future__ import annotations

import pytest

from flexcim_hw.silicon import timing as module
from flexcim_hw.silicon.synthesis import Netlist
from flexcim_hw.silicon.timing import TimingError, measure_timing
from tests.support.silicon import default_library

CHAIN = 20


def netlist(cells=CHAIN):
    """A register, a chain of inverters in a module called column, and a register."""
    chain = "".join(f"  INVX1 i{index} (.A(n[{index}]), .Y(n[{index + 1}]));\n" for index in range(cells))
    verilog = f"""
module top_column (x, y);
  input x; output y; wire [{cells}:0] n; assign n[0] = x; assign y = n[{cells}];
{chain}endmodule
module top (clk, rst, x, y);
  input clk, rst, x; output y; wire a, b;
  DFFPOSX1 from_here (.CLK(clk), .D(x), .Q(a));
  top_column middle (.x(a), .y(b));
  DFFPOSX1 to_there (.CLK(clk), .D(b), .Q(y));
endmodule
"""
    modules: dict[str, dict] = {"top": {"instances": {"middle": "top_column"}}, "top_column": {"instances": {}}}
    return Netlist("top", modules, verilog)


def test_the_slowest_path_goes_through_our_modules(tmp_path):
    found = measure_timing(netlist(), default_library(), 5.0, tmp_path)
    first, middle, last = found.path
    assert (first.instance, first.module, first.cells) == ("", "top", 1)
    assert (middle.instance, middle.module, middle.cells) == ("middle", "top_column", CHAIN)
    assert (last.instance, last.cells, last.delay) == ("", 1, 0)
    assert middle.block == "multipliers and adder trees"
    assert found.period + found.slack == pytest.approx(5.0)
    setup = found.period - first.delay - middle.delay
    assert 0 < setup < 0.5
    assert middle.delay > first.delay


def test_a_period_that_cannot_be_met_has_a_negative_slack(tmp_path):
    fast, slow = (measure_timing(netlist(), default_library(), period, tmp_path) for period in (0.25, 5.0))
    assert fast.slack < 0 < slow.slack
    assert fast.period == pytest.approx(slow.period)


def test_what_was_measured_is_kept(tmp_path, monkeypatch):
    found = measure_timing(netlist(), default_library(), 5.0, tmp_path)
    monkeypatch.setattr(module, "missing_sta", lambda: "missing")
    assert measure_timing(netlist(), default_library(), 5.0, tmp_path) == found
    with pytest.raises(TimingError, match="missing"):
        measure_timing(netlist(), default_library(), 4.0, tmp_path)


def test_a_missing_program_is_said_with_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TimingError, match=r"the program 'sta' of OpenSTA is missing; install it \(Debian: apt-get"):
        measure_timing(netlist(), default_library(), 5.0, tmp_path)


def test_what_opensta_says_is_passed_on(tmp_path):
    with pytest.raises(TimingError, match=r"OpenSTA finds no path in top: .*"):
        measure_timing(Netlist("top", {"top": {"instances": {}}}, "module top(;"), default_library(), 5.0, tmp_path)
    assert list(tmp_path.iterdir()) == []
