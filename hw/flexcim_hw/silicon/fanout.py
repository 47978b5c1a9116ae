"""Buffer trees: no net of a netlist drives more than a few cells, also across modules.

Works on the netlist that Yosys writes as JSON. Modules are treated from the leaves up. A module's input counts for its
parent as the loads that are left at its root; an output that is read inside as well gets a buffer, so that what the
parent adds does not come on top. The clock is left alone: its tree is made when cells are placed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["MAX_LOADS", "Buffer", "drive_loads", "worst_fanout"]

MAX_LOADS = 16
"""Most cells that a net drives."""

_ROOT_LOADS = 4
"""Most loads that an input of a module shows to its parent; more of them get a buffer of their own."""

CLOCK = "clk"

Netlist = Mapping[str, Any]
Bit = int
"""A net's number in one module; constants are strings."""


@dataclass(frozen=True)
class Buffer:
    """The library's cell that buffers are made of, and its pins."""

    cell: str
    input: str
    output: str


@dataclass(frozen=True)
class _Load:
    """A pin that a net drives: of a cell, or an output of the module."""

    bits: list[Any]
    index: int
    weight: int


def drive_loads(netlist: Netlist, buffer: Buffer, inputs: Mapping[str, Sequence[str]]) -> int:
    """Insert buffers in place until no net drives more than `MAX_LOADS` cells.

    Parameters
    ----------
    netlist : mapping
        What ``write_json`` wrote.
    buffer : Buffer
        What to insert.
    inputs : mapping of str to sequence of str
        The input pins of each cell of the library.

    Returns
    -------
    int
        How many buffers that are, each module counted once.
    """
    shown: dict[str, dict[str, list[int]]] = {}
    inserted = 0
    for name in _children_first(netlist["modules"]):
        inserted += _Tree(netlist["modules"][name], shown, buffer, inputs).grow(name)
    return inserted


class _Tree:
    def __init__(
        self,
        module: dict[str, Any],
        shown: dict[str, dict[str, list[int]]],
        buffer: Buffer,
        inputs: Mapping[str, Sequence[str]],
    ) -> None:
        self._module, self._shown, self._buffer, self._inputs = module, shown, buffer, inputs
        used = [bit for cell in module["cells"].values() for bits in cell["connections"].values() for bit in bits]
        used += [bit for port in module["ports"].values() for bit in port["bits"]]
        self._next = max((bit for bit in used if isinstance(bit, int)), default=0) + 1
        self._count = 0

    def grow(self, name: str) -> int:
        ports = self._module["ports"]
        loads: dict[Bit, list[_Load]] = defaultdict(list)
        for load in _cell_loads(self._module, self._shown, self._inputs):
            loads[load.bits[load.index]].append(load)
        self._part_outputs(loads)
        entering = {bit for port in ports.values() if port["direction"] == "input" for bit in port["bits"]}
        left = {
            bit: self._divided(bit, own, _ROOT_LOADS if bit in entering else MAX_LOADS) for bit, own in loads.items()
        }
        for port, facts in ports.items():  # the wire of an output is what leaves now, behind its buffer
            if port in self._module.get("netnames", {}):
                self._module["netnames"][port]["bits"] = list(facts["bits"])
        self._shown[name] = {
            port: [left.get(bit, 0) for bit in facts["bits"]]
            for port, facts in ports.items()
            if facts["direction"] == "input" and port != CLOCK
        }
        return self._count

    def _part_outputs(self, loads: dict[Bit, list[_Load]]) -> None:
        """Give each output that is read inside, or goes out twice, a buffer that is a load like others."""
        outputs: Counter[Bit] = Counter()
        for port in self._module["ports"].values():
            if port["direction"] != "output":
                continue
            for index, bit in enumerate(port["bits"]):
                if isinstance(bit, int) and (loads.get(bit) or outputs[bit]):
                    loads[bit].append(self._buffered([_Load(port["bits"], index, 1)], bit))
                elif isinstance(bit, int):
                    outputs[bit] += 1

    def _divided(self, bit: Bit, loads: list[_Load], most: int) -> int:
        """Put buffers before a net's loads until it has no more than so many; returns how many are left."""
        while sum(load.weight for load in loads) > most:
            groups = list(_bins(loads))
            if len(groups) == len(loads):  # each load is a group of its own: they are heavy, and the next level is not
                groups = [[load] for load in loads]
            loads = [self._buffered(group, bit) for group in groups]
        return sum(load.weight for load in loads)

    def _buffered(self, loads: Iterable[_Load], bit: Bit) -> _Load:
        new = self._next
        self._next += 1
        self._count += 1
        connections = {self._buffer.input: [bit], self._buffer.output: [new]}
        self._module["cells"][f"fanout_{self._count}"] = {
            "hide_name": 0,
            "type": self._buffer.cell,
            "parameters": {},
            "attributes": {},
            "connections": connections,
        }
        for load in loads:
            load.bits[load.index] = new
        return _Load(connections[self._buffer.input], 0, 1)


def _bins(loads: list[_Load]) -> Iterator[list[_Load]]:
    """Groups of at most `MAX_LOADS`, in order."""
    group: list[_Load] = []
    weight = 0
    for load in loads:
        if group and weight + load.weight > MAX_LOADS:
            yield group
            group, weight = [], 0
        group.append(load)
        weight += load.weight
    yield group


def _cell_loads(
    module: Mapping[str, Any], shown: Mapping[str, Mapping[str, list[int]]], cells: Mapping[str, Sequence[str]]
) -> Iterator[_Load]:
    """The pins of a module's cells that are driven by nets, but for clocks."""
    clock = set(module["ports"].get(CLOCK, {"bits": []})["bits"])
    for cell in module["cells"].values():
        inputs = shown.get(cell["type"])
        for pin, bits in cell["connections"].items():
            if inputs is None:
                weights = [int(pin in cells[cell["type"]])] * len(bits)
            else:
                weights = inputs.get(pin, [0] * len(bits))
            for index, (bit, weight) in enumerate(zip(bits, weights, strict=True)):
                if weight and isinstance(bit, int) and bit not in clock:
                    yield _Load(bits, index, weight)


def _children_first(modules: Mapping[str, Any]) -> list[str]:
    order: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        for kind in {cell["type"] for cell in modules[name]["cells"].values()} & set(modules):
            visit(kind)
        order.append(name)

    for name in modules:
        visit(name)
    return order


def worst_fanout(netlist: Netlist, inputs: Mapping[str, Sequence[str]]) -> tuple[int, str]:
    """The most cells that any net but the clock drives through all levels of the hierarchy, and the driver's module.

    Parameters are those of `drive_loads`.
    """
    modules = netlist["modules"]
    order = _children_first(modules)
    inside: dict[str, dict[str, list[int]]] = {}
    nets: dict[str, Counter[Bit]] = {}
    for name in order:
        nets[name] = Counter()
        for load in _cell_loads(modules[name], inside, inputs):
            nets[name][load.bits[load.index]] += load.weight
        inside[name] = {
            port: [nets[name][bit] if isinstance(bit, int) else 0 for bit in facts["bits"]]
            for port, facts in modules[name]["ports"].items()
            if facts["direction"] == "input" and port != CLOCK
        }
    worst = (0, "")
    outside: dict[tuple[str, str], list[int]] = {}
    for name in reversed(order):
        module = modules[name]
        for port, facts in module["ports"].items():
            for bit, loads in zip(facts["bits"], outside.get((name, port), []), strict=False):
                if isinstance(bit, int):  # constants drive nothing
                    nets[name][bit] += loads
        worst = max(worst, (max(nets[name].values(), default=0), name))
        for cell in module["cells"].values():
            for pin, bits in cell["connections"].items():
                if cell["type"] in modules and modules[cell["type"]]["ports"][pin]["direction"] == "output":
                    here = [nets[name][bit] if isinstance(bit, int) else 0 for bit in bits]
                    # Of several instances the busiest counts.
                    before = outside.get((cell["type"], pin), [0] * len(bits))
                    outside[cell["type"], pin] = list(map(max, before, here))
    return worst
