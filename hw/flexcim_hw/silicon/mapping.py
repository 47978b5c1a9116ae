"""From Verilog to cells of a library, module by module: what runs in a process of its own, with Yosys in it.

Yosys ends its process when something is wrong, and writes much to its standard output; so it gets a process. A module
that was mapped is kept in the cache under what it was made of, so the next design that has the same module, and a run
that goes on after a kill, take it from there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyosys import libyosys

from flexcim.files import write_text
from flexcim_hw.silicon.fanout import Buffer, drive_loads

__all__ = ["FLOW", "Job", "map_design"]

FLOW = 1
"""Version of what is done here: modules that another version mapped are mapped again."""

_LATCH = """
module \\$_DFFE_PP_ (input D, C, E, output Q);
  wire low, open;
  \\$_NOT_ inverter (.A(C), .Y(low));
  \\$_AND_ gate (.A(E), .B(low), .Y(open));
  \\$_DLATCH_P_ latch (.E(open), .D(D), .Q(Q));
endmodule
"""
"""A bit of a memory as a latch: open in the low half of a cycle that writes its word, behind the word's gate."""


@dataclass(frozen=True)
class Job:
    """What to map, and to what.

    Parameters
    ----------
    verilog : Path
        The design.
    top : str
        Its top module.
    liberty : tuple of Path
        The library, as plain text.
    library_sha256 : str
        Of the library's files.
    inputs : mapping of str to tuple of str
        The input pins of each cell of the library.
    buffer : Buffer
        The library's cell for large nets, which is also taken to drive each module.
    buffer_load : float
        Its input's capacitance, fF.
    period_ps : int
        What ABC aims at.
    cache : Path
        Folder of modules that were mapped.
    work : Path
        Folder of this job's own: ``modules.json``, ``netlist.v`` and ``log`` are put there.
    """

    verilog: Path
    top: str
    liberty: tuple[Path, ...]
    library_sha256: str
    inputs: Mapping[str, tuple[str, ...]]
    buffer: Buffer
    buffer_load: float
    period_ps: int
    cache: Path
    work: Path


def map_design(job: Job) -> None:
    """Map a design, and write what it is made of; the standard output of this process goes to the log."""
    with (job.work / "log").open("w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        modules = dict(_Design(job).mapped())
        write_text(job.work / "modules.json", json.dumps(modules))


class _Design:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._design = libyosys.Design()
        self._liberty = " ".join(f"-liberty {path}" for path in job.liberty)
        self._constraints = job.work / "constraints"
        # A module's outputs drive as much as four buffers take, as they do at most before a tree begins.
        self._constraints.write_text(
            f"set_driving_cell {job.buffer.cell}\nset_load {4 * job.buffer_load:g}\n", encoding="utf-8"
        )
        self._run(f"read_verilog {job.verilog}")
        self._run(f"hierarchy -check -top {job.top}")
        for command in ("proc -norom", "opt", "memory -nomap", "opt_clean"):
            self._run(command)
        self._memories = dict(self._set_memories_apart())
        self._set_lane_muxes_apart()
        self._run("opt_clean")

    def _run(self, command: str) -> None:
        libyosys.run_pass(command, self._design)

    def _modules(self) -> list[Any]:
        return list(self._design.modules_.values())

    def _set_memories_apart(self) -> Iterator[tuple[str, dict[str, int]]]:
        """Give each memory a module of its own; yields its name and the memory's shape."""
        found = [
            (_name(module), _name(cell), _shape(cell))
            for module in self._modules()
            for cell in list(module.cells_.values())
            if cell.type.str() == "$mem_v2"
        ]
        for module, cell, shape in found:
            self._run(f"submod -name {module}.{cell} {module}/c:{cell}")
            yield f"{module}.{cell}", shape

    def _set_lane_muxes_apart(self) -> None:
        """Give what chooses the activations of a column's cells a module of its own.

        That is what lies before the wires ``activation_…`` (`flexcim_hw.macro.sub_macro.Column`), up to the ports and
        the memory.
        """
        for module in [name for name in map(_name, self._modules()) if re.search(r"_column$", name)]:
            if not any(name.startswith("activation_") for name in map(_name, self._wires(module))):
                continue
            memory = f"{module}/t:{module}.*"
            self._run(f"select -set lanes {module}/w:activation_* %ci*:-{module}.storage {module}/c:* %i {memory} %d")
            self._run(f"submod -name {module}.lane_muxes @lanes")

    def _wires(self, module: str) -> list[Any]:
        return list(self._design.module(libyosys.IdString("\\" + module)).wires_.values())

    def mapped(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Map module by module, then buffer large nets; yields each module with its cells."""
        names = sorted(map(_name, self._modules()))
        facts = {name: self._map(name) for name in names}
        self._buffer_large_nets()
        for name in names:
            yield name, facts[name] | self._counted(name)
        self._run(f"write_verilog -noattr {self._job.work / 'netlist.v'}")

    def _buffer_large_nets(self) -> None:
        path = self._job.work / "netlist.json"
        self._run(f"write_json {path}")
        netlist = json.loads(path.read_text(encoding="utf-8"))
        drive_loads(netlist, self._job.buffer, self._job.inputs)
        path.write_text(json.dumps(netlist), encoding="utf-8")
        self._run("delete *")
        self._run(f"read_json {path}")
        self._run(f"hierarchy -top {self._job.top}")

    def _map(self, name: str) -> dict[str, Any]:
        job = self._job
        self._run(f"select {name}")
        source = job.work / "module.il"
        self._run(f"write_rtlil -selected {source}")
        self._run("select -clear")
        content = source.read_text(encoding="utf-8")
        source.unlink()
        key = hashlib.sha256(
            "\0".join([content, job.library_sha256, str(job.period_ps), str(FLOW), _version()]).encode()
        ).hexdigest()
        kept, facts = job.cache / f"{key[:32]}.il", job.cache / f"{key[:32]}.json"
        if facts.exists():
            self._run(f"delete {name}")
            self._run(f"read_rtlil {kept}")
            answer: dict[str, Any] = json.loads(facts.read_text(encoding="utf-8"))
            return answer
        answer = {"memory": self._memories.get(name)}
        if name in self._memories:
            answer["latch_cells"] = self._as_latches(name)
        self._to_cells(name)
        self._run(f"select {name}")
        self._run(f"write_rtlil -selected {source}")
        self._run("select -clear")
        source.replace(kept)
        write_text(facts, json.dumps(answer))
        return answer

    def _to_cells(self, name: str, memory: str = "") -> None:
        for command in ("alumacc", "opt", "memory_map", "opt -fast", "maccmap -unmap", "techmap", "opt -fast"):
            self._run(f"{command} {name}")
        if memory:
            # The words' wires are called by the memory's name and their number; what a read port registers is not.
            techmap = self._job.work / "latch.v"
            techmap.write_text(_LATCH, encoding="utf-8")
            self._run(f"techmap -map {techmap} {name}/w:{memory}[[]* %ci1 {name}/t:$_DFFE_PP_ %i")
            self._run(f"opt -fast {name}")
        for command in (
            f"dfflibmap {self._liberty}",
            f"abc {self._liberty} -constr {self._constraints} -D {self._job.period_ps}",
            "opt_clean -purge",
        ):
            self._run(f"{command} {name}")

    def _as_latches(self, name: str) -> dict[str, int]:
        copy = f"{name}.latches"
        self._run(f"copy {name} {copy}")
        self._to_cells(copy, memory=name.rpartition(".")[2])
        cells: dict[str, int] = self._counted(copy)["cells"]
        self._run(f"delete {copy}")
        return cells

    def _counted(self, name: str) -> dict[str, Any]:
        module = self._design.module(libyosys.IdString("\\" + name))
        types = Counter(cell.type.str() for cell in module.cells_.values())
        own = {f"\\{other}" for other in map(_name, self._modules())}
        return {
            "cells": {_plain(kind): count for kind, count in types.items() if kind not in own},
            "children": {_plain(kind): count for kind, count in types.items() if kind in own},
        }


def _plain(name: str) -> str:
    return name.removeprefix("\\")


def _name(thing: Any) -> str:
    return _plain(thing.name.str())


def _shape(cell: Any) -> dict[str, int]:
    parameters = {key.str().removeprefix("\\"): value for key, value in cell.parameters.items()}
    return {
        "depth": parameters["SIZE"].as_int(),
        "width": parameters["WIDTH"].as_int(),
        "read_ports": parameters["RD_PORTS"].as_int(),
        "write_ports": parameters["WR_PORTS"].as_int(),
        "registered": int("0" not in parameters["RD_CLK_ENABLE"].as_string()),
    }


def _version() -> str:
    return str(libyosys.yosys_version_str) if hasattr(libyosys, "yosys_version_str") else "pyosys"
