"""From Verilog to cells of a library, module by module: what runs in a process of its own, with Yosys in it.

Yosys ends its process when something is wrong, and writes much to its standard output; so it gets a process. A module
that was mapped is kept in the cache under what it was made of, so the next design that has the same module, and a run
that goes on after a kill, take it from there.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import pickle
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyosys import libyosys

from flexcim.files import write_text
from flexcim_hw.silicon.estimate import Parts, estimate_need
from flexcim_hw.silicon.fanout import CLOCK, Buffer, drive_loads
from flexcim_hw.silicon.memories import SAMPLES, MemoryShape, is_large

_VERSION = importlib.metadata.version("pyosys")

__all__ = ["FLOW", "REFUSED", "Job", "map_design", "run_job"]

FLOW = 1
"""Version of what is done here: modules that another version mapped are mapped again."""

REFUSED = 3
"""Exit code of a process that has estimated that its design needs more memory than there is."""

_LATCH = """
module \\$_DFFE_PP_ (input D, C, E, output Q);
  wire low, open;
  \\$_NOT_ inverter (.A(C), .Y(low));
  \\$_AND_ gate (.A(E), .B(low), .Y(open));
  \\$_DLATCH_P_ latch (.E(open), .D(D), .Q(Q));
endmodule
"""
"""A bit of a memory as a latch: open in the low half of a cycle that writes its word, behind the word's gate."""


_STAND_IN = """
module {name}({ports});
  input {clock};
  {declarations}
  (* keep *) reg [{taken}:0] taken;
  (* keep *) reg [{given}:0] given;
  always @(posedge {clock}) taken <= {{{inputs}}};
  always @(posedge {clock}) given <= given;
  assign {{{outputs}}} = given;
endmodule
"""

_TOP = "@top@"
"""Stands for the name of the top in what is kept."""

_DIRECTIONS = ("port_input", "port_output")


@dataclass(frozen=True)
class Job:
    """What to map, and to what.

    Parameters
    ----------
    top : str
        The top module of the design, which lies in `work` as ``design.v``.
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
    memory : int
        Bytes of memory that there are.
    cache : Path
        Folder of modules that were mapped.
    work : Path
        Folder of this job's own, in which it runs: ``need.json``, ``modules.json`` and ``netlist.v`` are put there.
    """

    top: str
    liberty: tuple[Path, ...]
    library_sha256: str
    inputs: Mapping[str, tuple[str, ...]]
    buffer: Buffer
    buffer_load: float
    period_ps: int
    memory: int
    cache: Path
    work: Path


def run_job() -> None:
    """Map the design of the job that stands, pickled, on the standard input: the whole life of a process."""
    job: Job = pickle.load(sys.stdin.buffer)
    sys.exit(0 if map_design(job) else REFUSED)


def map_design(job: Job) -> bool:
    """Map a design, and write what it is made of; False if it is estimated to need more memory than there is."""
    design = _Design(job)
    need = estimate_need(design.parts(), job.top)
    write_text(job.work / "need.json", json.dumps({"cells": need.cells, "memory": need.memory}))
    if need.memory > job.memory:
        return False
    write_text(job.work / "modules.json", json.dumps(dict(design.mapped())))
    return True


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
        self._run("read_verilog design.v")
        self._run(f"hierarchy -check -top {job.top}")
        for command in ("proc -norom", "opt", "memory -nomap", "opt_clean"):
            self._run(command)
        self._memories = dict(self._set_memories_apart())
        self._set_lane_muxes_apart()
        self._run("opt_clean")
        # What is left must not tell where it comes from: equal modules of two designs are one in the cache.
        for command in ("setattr -unset src", "setattr -mod -unset src", "rename -enumerate"):
            self._run(command)

    def _run(self, command: str) -> None:
        libyosys.run_pass(command, self._design)

    def _modules(self) -> list[Any]:
        return list(self._design.modules_.values())

    def _set_memories_apart(self) -> Iterator[tuple[str, dict[str, Any]]]:
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

    def _module(self, name: str) -> Any:
        return self._design.module(_id(name))

    def _wires(self, module: str) -> list[Any]:
        return list(self._module(module).wires_.values())

    def parts(self) -> dict[str, Parts]:
        """What each module is made of before it is mapped."""
        return {_name(module): _parts(module, self._own()) for module in self._modules()}

    def _own(self) -> set[str]:
        return {f"\\{name}" for name in map(_name, self._modules())}

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
        made_of = (self._text(name), job.library_sha256, str(job.period_ps), str(FLOW), _VERSION)
        key = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:32]
        kept, facts = job.cache / f"{key}.il", job.cache / f"{key}.json"
        if not facts.exists():
            self._keep(name, kept, facts)
        # Also what was mapped just now comes from there, so that a netlist does not depend on what had been kept.
        self._run(f"delete {name}")
        (job.work / "module.il").write_text(self._named(kept.read_text(encoding="utf-8")), encoding="utf-8")
        self._run("read_rtlil module.il")
        answer: dict[str, Any] = json.loads(facts.read_text(encoding="utf-8"))
        return answer

    def _keep(self, name: str, kept: Path, facts: Path) -> None:
        """Map a module, and write its netlist and what is known of it."""
        shape = self._memories.get(name)
        answer: dict[str, Any] = {"memory": shape, "latch_cells": None, "samples": []}
        if shape is not None and is_large(MemoryShape(**shape)):
            answer["samples"] = [self._sample(name, depth, width) for depth, width in SAMPLES]
            self._stand_in(name)
        elif shape is not None:
            answer["latch_cells"] = self._as_latches(name)
        self._to_cells(name)
        # The facts last: where they are, the module is.
        write_text(kept, self._text(name))
        write_text(facts, json.dumps(answer))

    def _text(self, name: str) -> str:
        """A module in RTLIL, without the name of the top, the prefix of all names, and what hangs on other modules."""
        self._run(f"select {name}")
        self._run("write_rtlil -selected module.il")
        self._run("select -clear")
        text = (self._job.work / "module.il").read_text(encoding="utf-8")
        text = re.sub(r"^(#|autoidx ).*\n", "", text, flags=re.MULTILINE)
        return re.sub(rf"\\{self._job.top}(?=[._\s])", rf"\\{_TOP}", text)

    def _named(self, text: str) -> str:
        return text.replace(f"\\{_TOP}", f"\\{self._job.top}")

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

    def _as_latches(self, name: str, memory: str = "") -> dict[str, int]:
        copy = f"{name}.latches"
        self._run(f"copy {name} {copy}")
        self._to_cells(copy, memory=memory or name.rpartition(".")[2])
        cells: dict[str, int] = self._counted(copy)["cells"]
        self._run(f"delete {copy}")
        return cells

    def _sample(self, name: str, depth: int, width: int) -> dict[str, Any]:
        """The cells of a memory like this one, but of so many words and bits."""
        copy = f"{name}.sample"
        self._run(f"copy {name} {copy}")
        (cell,) = (cell for cell in self._module(copy).cells_.values() if cell.type.str() == "$mem_v2")
        _shrink(cell, depth, width)
        self._run(f"opt_clean {copy}")
        latches = self._as_latches(copy, name.rpartition(".")[2])
        self._to_cells(copy)
        cells = self._counted(copy)["cells"]
        self._run(f"delete {copy}")
        return {"depth": depth, "width": width, "cells": cells, "latch_cells": latches}

    def _stand_in(self, name: str) -> None:
        """Put a flip-flop at each pin of a memory in its place: what it takes is taken, what it gives is given, so."""
        ports = [wire for wire in self._wires(name) if (wire.port_input or wire.port_output) and _name(wire) != CLOCK]
        inputs = [f"\\{_name(wire)} " for wire in ports if wire.port_input]
        outputs = [f"\\{_name(wire)} " for wire in ports if wire.port_output]
        taken, given = (sum(wire.width for wire in ports if getattr(wire, kind)) for kind in _DIRECTIONS)
        widths = [
            f"{'input' if wire.port_input else 'output'} [{wire.width - 1}:0] \\{_name(wire)} ;" for wire in ports
        ]
        text = _STAND_IN.format(
            name=f"\\{name} ",
            clock=CLOCK,
            ports=", ".join((CLOCK, *inputs, *outputs)),
            declarations="\n  ".join(widths),
            taken=taken - 1,
            given=given - 1,
            inputs=", ".join(inputs),
            outputs=", ".join(outputs),
        )
        (self._job.work / "stand_in.v").write_text(text, encoding="utf-8")
        self._run(f"delete {name}")
        self._run("read_verilog stand_in.v")
        self._run(f"proc {name}")

    def _counted(self, name: str) -> dict[str, Any]:
        cells = [(_name(cell), cell.type.str()) for cell in self._module(name).cells_.values()]
        own = self._own()
        return {
            "cells": dict(Counter(_plain(kind) for _, kind in cells if kind not in own)),
            "instances": {cell: _plain(kind) for cell, kind in cells if kind in own},
        }


def _plain(name: str) -> str:
    return name.removeprefix("\\")


def _name(thing: Any) -> str:
    return _plain(thing.name.str())


def _shape(cell: Any) -> dict[str, Any]:
    parameters = {key.str().removeprefix("\\"): value for key, value in cell.parameters.items()}
    return {
        "depth": parameters["SIZE"].as_int(),
        "width": parameters["WIDTH"].as_int(),
        "read_ports": parameters["RD_PORTS"].as_int(),
        "write_ports": parameters["WR_PORTS"].as_int(),
        "registered": "0" not in parameters["RD_CLK_ENABLE"].as_string(),
    }


def _shrink(cell: Any, depth: int, width: int) -> None:
    """Make a memory of one read port and one write port smaller."""
    address = (depth - 1).bit_length()
    for name, value in (("SIZE", depth), ("WIDTH", width), ("ABITS", address)):
        cell.setParam(_id(name), libyosys.Const(value, 32))
    for name in ("RD_INIT_VALUE", "RD_ARST_VALUE", "RD_SRST_VALUE"):
        cell.setParam(_id(name), cell.parameters[_id(name)].extract(0, width))
    cell.setParam(_id("INIT"), libyosys.Const(libyosys.State.Sx, depth * width))
    for name, bits in (("ADDR", address), ("DATA", width)):
        for side in ("RD", "WR"):
            cell.setPort(_id(f"{side}_{name}"), cell.getPort(_id(f"{side}_{name}")).extract(0, bits))
    cell.setPort(_id("WR_EN"), cell.getPort(_id("WR_EN")).extract(0, width))


def _id(name: str) -> Any:
    return libyosys.IdString("\\" + name)


def _parts(module: Any, own: set[str]) -> Parts:
    """Counts the bits that a module's cells drive."""
    logic = memory = 0
    children: Counter[str] = Counter()
    for cell in module.cells_.values():
        kind = cell.type.str()
        if kind in own:
            children[_plain(kind)] += 1
        elif kind == "$mem_v2":
            shape = _shape(cell)
            memory += 0 if is_large(MemoryShape(**shape)) else shape["depth"] * shape["width"]
        else:
            logic += sum(bits.size() for port, bits in cell.connections_.items() if cell.output(port))
    return Parts(logic, memory, dict(children))
