"""Modules that occur many times: converted to Verilog once each and instantiated, or elaborated in place for
simulation.

Amaranth does not merge identical modules. The hardware here is regular, so what occurs more than once is placed under
a module name by `place`, and is emitted once per generated design.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from amaranth.back import verilog
from amaranth.hdl import ClockSignal, Instance, Module, ResetSignal, Shape, Signal, Value, ValueLike, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from amaranth.utils import ceil_log2

__all__ = ["SharedModules", "index_shape", "place"]


def index_shape(count: int) -> Shape:
    """Shape of a port that selects one of ``count`` things; at least one bit wide, since Verilog has no empty ports."""
    return unsigned(max(1, ceil_log2(count)))


class SharedModules:
    """The modules that a design shares; handed to ``elaborate`` as the platform.

    Parameters
    ----------
    prefix : str
        Put before every module name, so that two generated designs fit into one.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._texts: dict[str, str] = {}
        self._signatures: dict[str, wiring.Signature] = {}
        self._ports: dict[str, frozenset[str]] = {}

    @property
    def texts(self) -> Mapping[str, str]:
        """Verilog of the shared modules by their names, each after those that it instantiates."""
        return self._texts

    def convert(self, component: wiring.Component, name: str) -> str:
        """Convert a component, its shared modules going into this collection."""
        return str(verilog.convert(component, name=name, platform=self, emit_src=False, strip_internal_attrs=True))

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
            component = make()
            text = self.convert(component, full_name)
            header = re.search(rf"^module {full_name}\((.*?)\);", text, re.MULTILINE | re.DOTALL)
            assert header is not None, f"Yosys wrote no module {full_name}"
            self._ports[full_name] = frozenset(re.findall(r"\w+", header[1]))
            self._signatures[full_name] = component.signature
            self._texts[full_name] = text
        members = self._signatures[full_name].members
        outputs = {
            port: Signal(member.shape, name=f"{name}_{port}")
            for port, member in members.items()
            if member.flow is not In
        }
        clocking = {"clk": ClockSignal(), "rst": ResetSignal()}
        ports: dict[str, ValueLike] = {
            f"i_{port}": clocking[port] for port in clocking if port in self._ports[full_name]
        }
        ports |= {f"i_{port}": value for port, value in inputs.items()}
        ports |= {f"o_{port}": value for port, value in outputs.items()}
        m.submodules[name] = Instance(full_name, **ports)
        return dict(outputs)


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
