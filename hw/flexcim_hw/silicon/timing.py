"""Clock: the slowest path of a whole netlist, by OpenSTA. Nothing is placed, so no wire takes any time."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flexcim.errors import FlexCiMError
from flexcim.files import write_text
from flexcim_hw.silicon.blocks import block_of
from flexcim_hw.silicon.fanout import CLOCK
from flexcim_hw.silicon.library import CellLibrary
from flexcim_hw.silicon.synthesis import Netlist

__all__ = ["Stage", "Timing", "TimingError", "measure_timing", "missing_sta"]

_SCRIPT = """
foreach file {{{liberty}}} {{ read_liberty $file }}
read_verilog netlist.v
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

_SLACK = re.compile(r"^ +(-?[\d.]+) +slack ", re.MULTILINE)
_STEP = re.compile(r"^ +(-?[\d.]+) +-?[\d.]+ [v^] (\S+)/\S+ \(\S+\)$", re.MULTILINE)


class TimingError(FlexCiMError):
    """A netlist that OpenSTA cannot time; the message holds what it said."""


@dataclass(frozen=True)
class Stage:
    """What the slowest path passes in one module.

    Parameters
    ----------
    instance : str
        Where: the names of instances from the top down, joined by slashes; empty for the top itself.
    module : str
        The module that this is an instance of.
    block : str
        The block that the module is counted in.
    cells : int
        How many cells of it the path passes.
    delay : float
        ns that they take.
    """

    instance: str
    module: str
    block: str
    cells: int
    delay: float


@dataclass(frozen=True)
class Timing:
    """What the clock of a netlist can be.

    Parameters
    ----------
    period : float
        The shortest period, ns, with setup times but without wires, skew or jitter.
    slack : float
        ns left at the period that was asked for; negative if it is not met.
    path : tuple of Stage
        The slowest path, module by module.
    """

    period: float
    slack: float
    path: tuple[Stage, ...]


def missing_sta() -> str | None:
    """How to get the program ``sta`` where it is missing; None where it is there."""
    if shutil.which("sta"):
        return None
    return "the program 'sta' of OpenSTA is missing; install it (Debian: apt-get install opensta)"


def measure_timing(netlist: Netlist, library: CellLibrary, period: float, cache: Path) -> Timing:
    """Time a whole netlist, unless the cache holds what came of it.

    Parameters
    ----------
    netlist : Netlist
        The mapped design.
    library : CellLibrary
        What it is mapped to.
    period : float
        The period to compare with, ns.
    cache : Path
        Folder that keeps what was measured from run to run; it is made.

    Raises
    ------
    TimingError
        If ``sta`` is missing, or finds no path.
    """
    made_of = (netlist.verilog, library.sha256, f"{period:g}", _SCRIPT)
    kept = cache / f"{hashlib.sha256(chr(0).join(made_of).encode()).hexdigest()[:32]}.timing.json"
    if not kept.exists():
        report = _report(netlist, library, period)
        slack = _SLACK.search(report)
        if slack is None:
            said = [line for line in report.splitlines() if line.strip()] or ["it says nothing"]
            raise TimingError(f"OpenSTA finds no path in {netlist.top}: {said[-1]}")
        steps = [(cell, float(delay)) for delay, cell in _STEP.findall(report[: report.index("data arrival time")])]
        cache.mkdir(parents=True, exist_ok=True)
        write_text(kept, json.dumps({"slack": float(slack[1]), "steps": steps}))
    found = json.loads(kept.read_text(encoding="utf-8"))
    return Timing(period - found["slack"], found["slack"], tuple(_stages(found["steps"], netlist)))


def _report(netlist: Netlist, library: CellLibrary, period: float) -> str:
    """What OpenSTA writes of the slowest path, and of what is wrong."""
    missing = missing_sta()
    if missing:
        raise TimingError(missing)
    with tempfile.TemporaryDirectory(prefix="flexcim-sta-") as name:
        work = Path(name)
        (work / "netlist.v").write_text(netlist.verilog, encoding="utf-8")
        liberty = " ".join(f"{{{path.absolute()}}}" for path in library.unpacked(work))
        script = _SCRIPT.format(liberty=liberty, top=netlist.top, period=period, clock=CLOCK)
        (work / "timing.tcl").write_text(script, encoding="utf-8")
        command = ["sta", "-no_splash", "-exit", "timing.tcl"]
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=work)
    return run.stdout + run.stderr


def _stages(steps: Iterable[tuple[str, float]], netlist: Netlist) -> Iterator[Stage]:
    """The steps of the path up to where it arrives, those that follow each other in one module as one stage."""
    stage: Stage | None = None
    before = ""
    for cell, delay in steps:
        instance = cell.rpartition("/")[0]
        # The flip-flop that launches has a step for its clock pin and one for its output.
        entered, before = int(cell != before), cell
        if stage is not None and stage.instance == instance:
            stage = Stage(instance, stage.module, stage.block, stage.cells + entered, stage.delay + delay)
            continue
        if stage is not None:
            yield stage
        *_, module = netlist.along(instance)
        stage = Stage(instance, module, block_of(module, netlist.top), entered, delay)
    if stage is not None:
        yield stage
