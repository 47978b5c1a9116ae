"""Buffer trees: how many loads are left, that nothing changes its driver, and what a whole hierarchy drives."""

from __future__ import annotations

import copy

import pytest

from flexcim_hw.silicon.fanout import MAX_LOADS, Buffer, drive_loads, worst_fanout

BUFFER = Buffer("BUF", "A", "Y")
INPUTS = {"BUF": ("A",), "INV": ("A",), "NAND": ("A", "B"), "FF": ("CK", "D")}


def cell(kind, **connections):
    return {"type": kind, "connections": {pin: list(bits) for pin, bits in connections.items()}}


def module(ports, cells):
    """Ports as direction and bits by name."""
    return {
        "ports": {name: {"direction": direction, "bits": list(bits)} for name, (direction, bits) in ports.items()},
        "cells": cells,
    }


def one_net(loads):
    """An inverter that drives so many others, each of which drives an output bit."""
    cells = {"driver": cell("INV", A=[2], Y=[3])}
    cells |= {f"load_{index}": cell("INV", A=[3], Y=[10 + index]) for index in range(loads)}
    ports = {"clk": ("input", [1]), "x": ("input", [2]), "y": ("output", range(10, 10 + loads))}
    return {"modules": {"top": module(ports, cells)}}


def source(facts, bit):
    """The net that a net comes from, through any buffers."""
    drivers = {
        each["connections"]["Y"][0]: each["connections"]["A"][0]
        for each in facts["cells"].values()
        if each["type"] == "BUF"
    }
    while bit in drivers:
        bit = drivers[bit]
    return bit


def sources(netlist):
    """Where each input of each cell that is no buffer comes from, and each output of a module."""
    found: dict[tuple[str, ...], list] = {}
    for name, facts in netlist["modules"].items():
        for instance, each in facts["cells"].items():
            if each["type"] != "BUF":
                for pin, bits in each["connections"].items():
                    found[name, instance, pin] = [source(facts, bit) for bit in bits]
        for port, there in facts["ports"].items():
            found[name, port] = [source(facts, bit) for bit in there["bits"]]
    return found


@pytest.mark.parametrize(("loads", "buffers"), [(1, 0), (16, 0), (17, 2), (256, 16), (257, 17 + 2), (1000, 63 + 4)])
def test_a_net_gets_a_tree_of_as_few_buffers_as_it_takes(loads, buffers):
    netlist = one_net(loads)
    before = sources(copy.deepcopy(netlist))
    assert drive_loads(netlist, BUFFER, INPUTS) == buffers
    assert worst_fanout(netlist, INPUTS)[0] <= MAX_LOADS
    assert sources(netlist) == before


def hierarchy(instances, loads):
    """A module whose input drives so many loads, so many times over, below a net that one inverter drives."""
    inner = module(
        {"clk": ("input", [1]), "x": ("input", [2]), "y": ("output", [3])},
        {
            **{f"load_{index}": cell("NAND", A=[2], B=["1"], Y=[10 + index]) for index in range(loads)},
            "out": cell("INV", A=[10], Y=[3]),
            "state": cell("FF", CK=[1], D=[3], Q=[5]),
        },
    )
    cells = {f"part_{index}": cell("inner", clk=[1], x=[3], y=[100 + index]) for index in range(instances)}
    cells["driver"] = cell("INV", A=[2], Y=[3])
    # The outputs are gathered by as many loads on the first one.
    cells |= {f"gather_{index}": cell("INV", A=[100], Y=[1000 + index]) for index in range(MAX_LOADS)}
    outputs = range(100, 100 + instances)
    return {
        "modules": {
            "top": module({"clk": ("input", [1]), "x": ("input", [2]), "y": ("output", outputs)}, cells),
            "inner": inner,
        }
    }


@pytest.mark.parametrize(("instances", "loads"), [(1, 1), (20, 1), (3, 40), (40, 300)])
def test_trees_count_through_all_levels(instances, loads):
    netlist = hierarchy(instances, loads)
    before = sources(copy.deepcopy(netlist))
    assert worst_fanout(netlist, INPUTS)[0] > MAX_LOADS
    drive_loads(netlist, BUFFER, INPUTS)
    worst, name = worst_fanout(netlist, INPUTS)
    assert worst <= MAX_LOADS, name
    assert sources(netlist) == before


def test_the_clock_has_no_tree_here():
    cells = {f"state_{index}": cell("FF", CK=[1], D=[2], Q=[10 + index]) for index in range(100)}
    states = list(cells)
    netlist = {"modules": {"top": module({"clk": ("input", [1]), "x": ("input", [2])}, cells)}}
    drive_loads(netlist, BUFFER, INPUTS)
    assert {tuple(netlist["modules"]["top"]["cells"][name]["connections"]["CK"]) for name in states} == {(1,)}
    assert worst_fanout(netlist, INPUTS)[0] <= MAX_LOADS


def test_the_wire_of_an_output_that_is_read_inside_follows_its_buffer():
    """Yosys joins what has one name: with the old wire under it, the buffer would drive its own input."""
    cells = {"driver": cell("INV", A=[2], Y=[3]), "reader": cell("INV", A=[3], Y=[4])}
    top = module({"x": ("input", [2]), "y": ("output", [3]), "z": ("output", [4])}, cells)
    top["netnames"] = {name: {"bits": list(port["bits"])} for name, port in top["ports"].items()}
    assert drive_loads({"modules": {"top": top}}, BUFFER, INPUTS) == 1
    (buffer,) = (each["connections"] for each in cells.values() if each["type"] == "BUF")
    assert top["ports"]["y"]["bits"] == top["netnames"]["y"]["bits"] == buffer["Y"] != buffer["A"]


def test_the_worst_net_is_told_with_its_module():
    assert worst_fanout(hierarchy(2, 30), INPUTS) == (60, "top")
    assert worst_fanout(one_net(7), INPUTS) == (7, "top")
