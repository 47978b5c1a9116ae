"""A design mapped to a library: Yosys runs in a process of its own, and what it made is read back."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexcim.errors import FlexCiMError
from flexcim_hw.silicon.library import CellLibrary
from flexcim_hw.silicon.mapping import REFUSED, Job
from flexcim_hw.verilog.macro import GeneratedVerilog

__all__ = ["Netlist", "SynthesisError", "free_memory", "synthesise"]

# Yosys writes through Python, whose buffers are lost when it ends the process with an error: -u has none.
_PROCESS = [sys.executable, "-u", "-c", "from flexcim_hw.silicon.mapping import run_job; run_job()"]


class SynthesisError(FlexCiMError):
    """A design that cannot be mapped to a library: Yosys says why, or it is too large."""


@dataclass(frozen=True)
class Netlist:
    """A mapped design.

    Parameters
    ----------
    top : str
        Its top module.
    modules : mapping of str to mapping
        Of each module: ``cells``, how many of each kind; ``instances``, of which module each of its instances is;
        ``memory``, the shape of the memory that it is, or None; ``latch_cells``, of a memory the same cells with its
        words as latches.
    verilog : str
        The netlist, which keeps the modules.
    """

    top: str
    modules: Mapping[str, Mapping[str, Any]]
    verilog: str

    def counts(self) -> Counter[str]:
        """How often each module occurs in the whole design."""
        counts: Counter[str] = Counter()
        waiting = [(self.top, 1)]
        while waiting:
            name, times = waiting.pop()
            counts[name] += times
            children = Counter(self.modules[name]["instances"].values())
            waiting += [(child, times * count) for child, count in children.items()]
        return counts

    def along(self, path: str) -> Iterator[str]:
        """The modules on the way from the top to an instance, whose path joins the names of instances by slashes."""
        module = self.top
        yield module
        for name in filter(None, path.split("/")):
            module = self.modules[module]["instances"][name]
            yield module


def free_memory() -> int:
    """Bytes of memory that programs can still have."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


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
        If Yosys stops with an error, or the design is estimated to need more memory than there is.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="flexcim-synthesis-") as name:
        work = Path(name)
        (work / "design.v").write_text(verilog.text, encoding="utf-8")
        memory = free_memory()
        job = Job(
            top=verilog.top,
            liberty=library.unpacked(work),
            library_sha256=library.sha256,
            inputs=library.inputs,
            buffer=library.buffer,
            buffer_load=library.buffer_load,
            period_ps=round(period * 1000),
            memory=memory,
            cache=cache.absolute(),
            work=work,
        )
        with (work / "log").open("wb") as log:
            command = subprocess.run(
                _PROCESS, input=pickle.dumps(job), stdout=log, stderr=subprocess.STDOUT, cwd=work, check=False
            )
        if command.returncode == REFUSED:
            need = json.loads((work / "need.json").read_text(encoding="utf-8"))
            raise SynthesisError(
                f"the netlist would have about {need['cells'] / 1e6:,.1f} million cells, which take about "
                f"{need['memory'] / 2**30:,.1f} GiB of memory; {memory / 2**30:,.1f} GiB are free"
            )
        if command.returncode:
            raise SynthesisError(f"Yosys cannot map it to {library.name}: {_said(work / 'log')}")
        modules = json.loads((work / "modules.json").read_text(encoding="utf-8"))
        return Netlist(verilog.top, modules, (work / "netlist.v").read_text(encoding="utf-8"))


def _said(log: Path) -> str:
    """The error in what Yosys wrote, or the end of it."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    errors = [line for line in lines if re.match(r"(ERROR|\w*Error)\b", line)]
    return (errors or list(filter(None, lines)) or ["Yosys ended without a word"])[-1].strip()
