"""A design mapped to a library: Yosys runs in a process of its own, and what it made is read back."""

from __future__ import annotations

import json
import multiprocessing
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexcim.errors import FlexCiMError
from flexcim_hw.silicon.library import CellLibrary
from flexcim_hw.silicon.mapping import Job, map_design
from flexcim_hw.verilog.macro import GeneratedVerilog

__all__ = ["Netlist", "SynthesisError", "synthesise"]


class SynthesisError(FlexCiMError):
    """A design that Yosys cannot map to a library; the message holds what it said."""


@dataclass(frozen=True)
class Netlist:
    """A mapped design.

    Parameters
    ----------
    top : str
        Its top module.
    modules : mapping of str to mapping
        Of each module: ``cells`` and ``children``, how many of each kind; ``memory``, the shape of the memory that it
        is, or None; ``latch_cells``, of a memory the same cells with its words as latches.
    verilog : str
        The netlist, which keeps the modules.
    """

    top: str
    modules: Mapping[str, Mapping[str, Any]]
    verilog: str


def synthesise(verilog: GeneratedVerilog, library: CellLibrary, cache: Path, period: float) -> Netlist:
    """Map a design to a library, module by module; what the cache holds is taken from there.

    Parameters
    ----------
    verilog : GeneratedVerilog
        The design, generated without initial values.
    library : CellLibrary
        The library.
    cache : Path
        Folder that keeps mapped modules from run to run; it is made.
    period : float
        The clock period that the logic is sized for, ns.

    Raises
    ------
    SynthesisError
        If Yosys stops with an error.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".work-") as name:
        work = Path(name)
        (work / "design.v").write_text(verilog.text, encoding="utf-8")
        job = Job(
            verilog=work / "design.v",
            top=verilog.top,
            liberty=library.unpacked(work),
            library_sha256=library.sha256,
            inputs=library.inputs,
            buffer=library.buffer,
            buffer_load=library.buffer_load,
            period_ps=round(period * 1000),
            cache=cache,
            work=work,
        )
        process = multiprocessing.get_context("spawn").Process(target=map_design, args=(job,), daemon=True)
        process.start()
        process.join()
        if process.exitcode:
            raise SynthesisError(f"{verilog.top} cannot be mapped to {library.name}: {_said(work / 'log')}")
        modules = json.loads((work / "modules.json").read_text(encoding="utf-8"))
        return Netlist(verilog.top, modules, (work / "netlist.v").read_text(encoding="utf-8"))


def _said(log: Path) -> str:
    """The error in what Yosys wrote, or the end of it."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    errors = [line for line in lines if re.match(r"(ERROR|\w*Error)\b", line)]
    return (errors or list(filter(None, lines)) or ["Yosys ended without a word"])[-1].strip()
