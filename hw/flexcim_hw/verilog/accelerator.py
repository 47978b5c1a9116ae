"""From an accelerator's configuration to Verilog and what stands beside it: JSON, C header, Python driver, Markdown."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from amaranth.hdl import Shape
from amaranth.lib.wiring import In

from flexcim.accelerator.instructions import INSTRUCTION_FIELDS, AcceleratorError
from flexcim.accelerator.register_files import c_header, markdown, python_driver
from flexcim.accelerator.registers import REGISTERS
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.files import check_writable, write_text
from flexcim.macro.commands import ErrorKind
from flexcim_hw.accelerator.accelerator import Accelerator, accelerator_buses
from flexcim_hw.common.buses import pins
from flexcim_hw.verilog.interface import Port
from flexcim_hw.verilog.macro import (
    GeneratedVerilog,
    check_module_name,
    comment_block,
    emit,
    lint_waivers,
    write_verilog,
)

__all__ = ["accelerator_ports", "generate_accelerator", "write_accelerator"]


def accelerator_ports(config: AcceleratorConfig) -> list[Port]:
    """The ports of the accelerator in Verilog (docs/architecture.md, section 7.1)."""
    meanings = {
        "s_axis_weights": "AXI4-Stream of weights",
        "s_axis_activations": "AXI4-Stream of activations",
        "m_axis_results": "AXI4-Stream of results",
        "s_axil": "registers, axi4-lite",
        "wb": "registers, wishbone",
    }
    ports = [
        Port("clk", "input", 1, "clock; everything happens on its rising edge"),
        Port("rst", "input", 1, "synchronous reset, active high"),
    ]
    for name, member in accelerator_buses(config).items():
        for pin, port in pins(name, member).items():
            direction = "input" if port.flow is In else "output"
            ports.append(Port(pin, direction, Shape.cast(port.shape).width, meanings[name]))
    ports.append(Port("irq", "output", 1, "interrupt request, level"))
    return ports


def generate_accelerator(
    config: AcceleratorConfig, name: str = "flexcim_accelerator", *, init: bool = True
) -> GeneratedVerilog:
    """Generate the Verilog of an accelerator.

    Parameters
    ----------
    config : AcceleratorConfig
        The instance.
    name : str
        Name of the top module, and prefix of all others.
    init : bool
        As for `flexcim_hw.verilog.macro.generate`.

    Raises
    ------
    ValueError
        If the name is no Verilog identifier.
    """
    check_module_name(name)
    text = emit(Accelerator(config), name, init=init)
    interface = _interface(config, name, init=init)
    return GeneratedVerilog(text=_header(config, interface) + text, top=name, interface=interface)


def write_accelerator(verilog: GeneratedVerilog, config: AcceleratorConfig, folder: Path) -> tuple[Path, ...]:
    """Write ``<top>.v``, ``.json``, ``.h``, ``.py`` and ``.md`` into the folder, each atomically; returns the paths."""
    check_writable(*(folder / f"{verilog.top}{suffix}" for suffix in (".v", ".json", ".h", ".py", ".md")))
    paths: tuple[Path, ...] = write_verilog(verilog, folder)
    for suffix, text in ((".h", c_header), (".py", python_driver), (".md", markdown)):
        paths = (*paths, folder / f"{verilog.top}{suffix}")
        write_text(paths[-1], text(config, verilog.top))
    return paths


def _interface(config: AcceleratorConfig, name: str, *, init: bool) -> dict[str, Any]:
    return {
        "top": name,
        "generator": f"FlexCiM {importlib.metadata.version('flexcim')}",
        "initial_values": init,
        "contract": "docs/architecture.md in FlexCiM's repository, section 7",
        "parameters": config.to_mapping(),
        "ports": [vars(port) for port in accelerator_ports(config)],
        "registers": [
            {
                "name": register.name,
                "address": register.address,
                "access": register.access,
                "fields": [vars(field) for field in register.fields],
            }
            for register in REGISTERS
        ],
        "instructions": {
            op.name: {"op": int(op), "fields": {field: list(place) for field, place in fields.items()}}
            for op, fields in INSTRUCTION_FIELDS.items()
        },
        "patterns": {str(index): str(pattern) for index, pattern in enumerate(config.macro.patterns)},
        "errors": {str(int(kind)): kind.name.lower() for kind in AcceleratorError},
        "macro_errors": {str(int(kind)): kind.name.lower() for kind in ErrorKind},
        "lint_waivers": lint_waivers(init=init),
    }


def _header(config: AcceleratorConfig, interface: dict[str, Any]) -> str:
    """The comment at the top of the file, and the lint waivers."""
    parameters = interface["parameters"] | {"macro": f"{config.macro.sub_macros} x {config.macro.rows} x "}
    parameters["macro"] += f"{config.macro.columns} cells, patterns {' '.join(map(str, config.macro.patterns))}"
    variant = "with" if interface["initial_values"] else "without"
    lines = [
        f"{interface['top']}: an accelerator of compute-in-memory macros for N:M sparse weights,",
        f"generated by {interface['generator']}, {variant} initial values of registers.",
        f"The contract is {interface['contract']}.",
        "",
        "Parameters",
        *(f"  {key:<18} {value}" for key, value in parameters.items()),
        "",
        "Ports",
        *(f"  {p['direction']:<6} {p['width']:>5}  {p['name']:<26} {p['meaning']}" for p in interface["ports"]),
        "",
        "Registers",
        *(f"  {register.address:#04x}  {register.name:<18} {register.meaning}" for register in REGISTERS),
    ]
    return comment_block(lines, init=interface["initial_values"])
