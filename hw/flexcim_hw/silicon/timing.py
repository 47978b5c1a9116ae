"""Clock: the slowest path of a whole netlist, by OpenSTA. Nothing is placed, so no wire takes any time."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from flexcim.errors import FlexCiMError
from flexcim_hw.silicon.fanout import CLOCK
from flexcim_hw.silicon.library import CellLibrary
from flexcim_hw.silicon.synthesis import Netlist

__all__ = ["Stage", "Timing", "TimingError", "find_sta", "measure_timing"]

_SCRIPT = """
foreach file {{{liberty}}} {{ read_liberty $file }}
read_verilog {netlist}
link_design {top}
create_clock -period {period:g} {clock}
# A reset comes long before the first beat; its tree is not to be the slowest path.
set_false_path -from [get_ports rst]
set inputs {{}}
foreach port [all_inputs] {{ if {{[get_property $port full_name] ne "{clock}"}} {{ lappend inputs $port }} }}
set_input_delay 0 -clock {clock} $inputs
set_output_delay 0 -clock {clock} [all_outputs]
report_checks -path_delay max -format full -digits 4
"""

_STEP = re.compile(r"^ +(-?[\d.]+) +(-?[\d.]+) [v^] (\S+)/\S+ \((\S+)\)$", re.MULTILINE)


class TimingError(FlexCiMError):
    """A netlist that OpenSTA cannot time; the message holds what it said."""


@dataclass(frozen=True)
class Stage:
    """What the slowest path passes in one module.

    Parameters
    ----------
    module : str
        Where: the names of instances from the top down, joined by slashes; empty for the top itself.
    cells : int
        How many cells of it the path passes.
    delay : float
        ns that they take.
    """

    module: str
    cells: int
    delay: float


@dataclass(frozen=True)
class Timing:
    """What the clock of a netlist can be.

    Parameters
    ----------
    period : float
        The shortest period, ns, with setup times but without wires, skew or jitter.
    path : tuple of Stage
        The slowest path, module by module.
    slack : float
        ns left at the period that was asked for; negative if it is not met.
    """

    period: float
    path: tuple[Stage, ...]
    slack: float


def find_sta() -> str:
    """The program ``sta``.

    Raises
    ------
    TimingError
        If it is missing; the message says how to get it.
    """
    program = shutil.which("sta")
    if program is None:
        raise TimingError("the clock needs the program 'sta' of OpenSTA; install it (Debian: apt-get install opensta)")
    return program


def measure_timing(netlist: Netlist, library: CellLibrary, period: float) -> Timing:
    """Time a whole netlist.

    Parameters
    ----------
    netlist : Netlist
        The mapped design.
    library : CellLibrary
        What it is mapped to.
    period : float
        The period to compare with, ns.

    Raises
    ------
    TimingError
        If ``sta`` is missing, or finds no path.
    """
    program = find_sta()
    with tempfile.TemporaryDirectory(prefix="flexcim-sta-") as name:
        work = Path(name)
        (work / "netlist.v").write_text(netlist.verilog, encoding="utf-8")
        script = _SCRIPT.format(
            liberty=" ".join(map(str, library.unpacked(work))),
            netlist=work / "netlist.v",
            top=netlist.top,
            period=period,
            clock=CLOCK,
        )
        (work / "timing.tcl").write_text(script, encoding="utf-8")
        command = [program, "-no_splash", "-exit", str(work / "timing.tcl")]
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=work)
    slack = re.search(r"^ +(-?[\d.]+) +slack ", run.stdout, re.MULTILINE)
    if slack is None:
        lines = [line for line in (run.stdout + run.stderr).splitlines() if line.strip()]
        raise TimingError(f"OpenSTA finds no path in {netlist.top}: {lines[-1] if lines else 'it says nothing'}")
    return Timing(period - float(slack[1]), _stages(run.stdout, netlist), float(slack[1]))


def _stages(report: str, netlist: Netlist) -> tuple[Stage, ...]:
    """The steps of the path up to where it arrives, those that follow each other in one module as one stage."""
    stages: list[Stage] = []
    for delay, _, cell, _ in _STEP.findall(report[: report.index("data arrival time")]):
        module = cell.rpartition("/")[0].replace(f"{netlist.top}_", "")
        if stages and stages[-1].module == module:
            stages[-1] = Stage(module, stages[-1].cells + 1, stages[-1].delay + float(delay))
        else:
            stages.append(Stage(module, 1, float(delay)))
    return tuple(stages)
