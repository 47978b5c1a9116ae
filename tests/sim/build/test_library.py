"""Designs as libraries: how streams are told from other ports, and what a build depends on."""

from __future__ import annotations

import pytest

from flexcim.config.macro import PRESETS
from flexcim_hw.verilog.macro import generate
from flexcim_sim.build.library import StreamPorts, build_library, find_streams
from flexcim_sim.build.simulators import SimulatorError


def test_streams_of_every_kind_are_found():
    ports = [
        ("clk", "input", 1),
        ("rst", "input", 1),
        ("run__payload", "input", 52),
        ("run__valid", "input", 1),
        ("run__ready", "output", 1),
        ("m_axis_results_tdata", "output", 64),
        ("m_axis_results_tkeep", "output", 8),
        ("m_axis_results_tvalid", "output", 1),
        ("m_axis_results_tready", "input", 1),
        ("s_axil_awaddr", "input", 12),
        ("s_axil_awvalid", "input", 1),
        ("s_axil_awready", "output", 1),
        ("s_axil_wdata", "input", 32),
        ("s_axil_wvalid", "input", 1),
        ("s_axil_wready", "output", 1),
        ("invalid", "output", 1),
        ("irq", "output", 1),
    ]
    streams, others = find_streams(ports)
    assert streams == (
        StreamPorts("run", True, "run__valid", "run__ready", (("run__payload", 52),)),
        StreamPorts(
            "m_axis_results",
            False,
            "m_axis_results_tvalid",
            "m_axis_results_tready",
            (("m_axis_results_tdata", 64), ("m_axis_results_tkeep", 8)),
        ),
        StreamPorts("s_axil_aw", True, "s_axil_awvalid", "s_axil_awready", (("s_axil_awaddr", 12),)),
        StreamPorts("s_axil_w", True, "s_axil_wvalid", "s_axil_wready", (("s_axil_wdata", 32),)),
    )
    assert [stream.beat_words for stream in streams] == [2, 3, 1, 1]
    assert others == ("invalid", "irq")


def test_the_macros_streams_are_found():
    verilog = generate(PRESETS["board"])
    ports = [(port["name"], port["direction"], port["width"]) for port in verilog.interface["ports"]]
    streams, others = find_streams(ports)
    assert {stream.name: stream.into_design for stream in streams} == {
        "load": True,
        "run": True,
        "weights": True,
        "activations": True,
        "results": False,
    }
    assert others == ("error",)


def test_a_missing_tool_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("flexcim_sim.build.simulators.tool_environment", lambda: {"PATH": str(tmp_path)})
    with pytest.raises(SimulatorError, match=r"^verilator needs the program 'verilator', which is not on the PATH"):
        build_library(generate(PRESETS["board"]))
