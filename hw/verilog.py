"""From a configuration to Verilog: each distinct module once, a header that explains it, and a JSON beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth.lib import wiring

from flexcim.commands import LOAD_FIELDS, RUN_FIELDS, ErrorKind
from flexcim.config import SUM_BITS, MacroConfig
from flexcim.files import write_text
from flexcim.streams import MULT_BITS, SHIFT_BITS
from hw.macro import Macro
from hw.ports import (
    activation_layout,
    constant_layout,
    result_layout,
    weight_layout,
)
from hw.shared_modules import SharedModules

__all__ = [
    "LINT_WAIVERS",
    "GeneratedVerilog",
    "Port",
    "check_module_name",
    "comment_block",
    "emit",
    "generate",
    "is_module_name",
    "macro_ports",
    "write_verilog",
]

LINT_WAIVERS = {
    "CASEINCOMPLETE": "codes that select nothing keep the value assigned before the case",
    "DECLFILENAME": "all modules are in one file",
    "PROCASSINIT": "registers have initial values, which FPGAs honour; generate with --no-init to leave them out",
    "UNUSEDSIGNAL": "Yosys keeps names for fields and intermediate values that nothing reads",
    "WIDTHEXPAND": "Yosys writes operands at their own width and leaves the extension to the language",
    "WIDTHTRUNC": "Yosys writes 'equal to zero' as a logical not, and takes the low bits of shifts",
}
"""What `verilator --lint-only -Wall` says of any Verilog that Yosys writes, each with why it is no finding."""


_WAKE = r"\\\$wake "
"""The register on which Yosys makes combinational processes wait at time zero, as it is named here."""


@dataclass(frozen=True)
class Port:
    """A port of the generated top module: its name, ``input`` or ``output``, its width in bits, and what it is."""

    name: str
    direction: str
    width: int
    meaning: str


@dataclass(frozen=True)
class GeneratedVerilog:
    """A generated macro.

    Parameters
    ----------
    text : str
        The Verilog, each distinct module once, the top first and the others by name.
    top : str
        Name of the top module.
    interface : dict
        What the JSON beside it says: parameters, ports, payload fields, modes, errors, latency.
    """

    text: str
    top: str
    interface: dict[str, Any]


def macro_ports(config: MacroConfig) -> list[Port]:
    """The ports of the macro in Verilog (docs/architecture.md, section 3.1)."""

    def fields(widths: dict[str, int]) -> str:
        return ", ".join(f"{name} {width}" for name, width in widths.items())

    q, p, r = config.weight_port, config.activation_port, config.result_port
    streams = [
        ("load", "input", sum(LOAD_FIELDS.values()), f"fill a bank: {fields(dict(LOAD_FIELDS))}"),
        ("run", "input", sum(RUN_FIELDS.values()), f"multiply vectors by a bank: {fields(dict(RUN_FIELDS))}"),
        (
            "weights",
            "input",
            weight_layout(config).size,
            f"{q} cells of (weight {config.weight_bits}, offset {config.index_bits}), last 1",
        ),
        (
            "activations",
            "input",
            activation_layout(config).size,
            f"{p} elements of {config.activation_bits}, last 1",
        ),
        ("results", "output", result_layout(config).size, f"{r} elements of {SUM_BITS}, last 1"),
    ]
    if config.requantizer:
        constants = f"{r} outputs of (mult {MULT_BITS}, shift {SHIFT_BITS}), last 1"
        streams.insert(3, ("constants", "input", constant_layout(config).size, constants))
    ports = [
        Port("clk", "input", 1, "clock; everything happens on its rising edge"),
        Port("rst", "input", 1, "synchronous reset, active high"),
    ]
    for name, direction, width, meaning in streams:
        back = "output" if direction == "input" else "input"
        ports += [
            Port(f"{name}__payload", direction, width, meaning),
            Port(f"{name}__valid", direction, 1, "the payload is there and stays until it is taken"),
            Port(f"{name}__ready", back, 1, "the payload is taken at this edge, if valid"),
        ]
    ports.append(Port("error", "output", 4, "kind of the first error, sticky until reset; 0 when none"))
    return ports


def is_module_name(name: str) -> bool:
    """Whether the name can be a Verilog module's without being escaped."""
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is not None


def check_module_name(name: str) -> None:
    """Raise ValueError unless the name can be a Verilog module's."""
    if not is_module_name(name):
        raise ValueError(f"a module's name must be a Verilog identifier, not {name!r}")


def generate(config: MacroConfig, name: str = "flexcim_macro", *, init: bool = True) -> GeneratedVerilog:
    """Generate the Verilog of a macro.

    Parameters
    ----------
    config : MacroConfig
        The instance.
    name : str
        Name of the top module, and prefix of all others.
    init : bool
        Whether registers have initial values, as FPGAs want them. Without them the reset alone makes the state, as
        ASICs want it. Memories never have: no word is read before it is written.

    Raises
    ------
    ValueError
        If the name is no Verilog identifier.
    """
    check_module_name(name)
    macro = Macro(config)
    text = emit(macro, name, init=init)
    interface = _interface(config, name, macro.latency)
    return GeneratedVerilog(text=_header(interface) + text, top=name, interface=interface)


def emit(component: wiring.Component, name: str, *, init: bool) -> str:
    """The Verilog of a component that holds macros, without a header.

    Parameters
    ----------
    component : Component
        The top.
    name : str
        Its name, and prefix of all other modules.
    init : bool
        As for `generate`.
    """
    shared = SharedModules(name)
    shared.add(component, name)
    text = _keep_module(_tidy(shared.verilog()), f"{name}_column")
    return _without_initial_values(text, registers=not init)


def comment_block(lines: Iterable[str]) -> str:
    """Lines as a Verilog comment, with the lint waivers behind it: what a generated file begins with."""
    comment = "".join(f"// {line}".rstrip() + "\n" for line in lines)
    waivers = "".join(f"/* verilator lint_off {name} */ // {reason}\n" for name, reason in LINT_WAIVERS.items())
    return f"{comment}\n{waivers}\n"


def write_verilog(verilog: GeneratedVerilog, folder: Path) -> tuple[Path, Path]:
    """Write ``<top>.v`` and ``<top>.json`` into the folder, each atomically; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    source, description = folder / f"{verilog.top}.v", folder / f"{verilog.top}.json"
    write_text(source, verilog.text)
    write_text(description, json.dumps(verilog.interface, indent=2) + "\n")
    return source, description


def _keep_module(text: str, name: str) -> str:
    """Mark a module not to be inlined by Verilator, which otherwise mixes S * C columns into one function."""
    return re.sub(rf"^(module {name}\(.*?\);\n)", r"\1  /* verilator no_inline_module */\n", text, flags=re.MULTILINE)


def _tidy(text: str) -> str:
    """Shorten what Yosys writes, and leave out what means nothing."""
    # A port is declared as a wire once more.
    text = re.sub(r"^(  (?:input|output) (.*;)\n)  wire \2\n", r"\1", text, flags=re.MULTILINE)
    # Verilog has no wires without width; Yosys writes two bits for them, and nothing reads them.
    text = re.sub(r"^  wire \[-1:0\] \S+ ?;\n", "", text, flags=re.MULTILINE)
    return re.sub(r"\\\$auto\$verilog_backend\S+ ", r"\\$wake ", text)


def _without_initial_values(text: str, *, registers: bool) -> str:
    """Leave out the initial words of memories, and if asked, the initial values of registers.

    Yosys makes each combinational process sensitive to a register that only ever gets its initial value, so that
    simulators carry it out at time zero. In SystemVerilog a declaration's initial value makes no event; an initial
    statement does. Without initial values the reset wakes the processes, and the register goes as well.
    """
    text = re.sub(r"^  initial begin\n(?:    \S+\[\d+\] = .*;\n)+  end\n", "", text, flags=re.MULTILINE)
    if not registers:
        return re.sub(rf"^  reg ({_WAKE}) = 0;$", r"  reg \1;\n  initial \1 = 0;", text, flags=re.MULTILINE)
    text = re.sub(rf"^  reg {_WAKE} = 0;\n", "", text, flags=re.MULTILINE)
    text = re.sub(rf"^    if \({_WAKE}\) begin end\n", "", text, flags=re.MULTILINE)
    return re.sub(r"^(  reg (?:signed )?(?:\[[^\]]+\] )?\S+ ?) = [^;]+;$", r"\1;", text, flags=re.MULTILINE)


def _interface(config: MacroConfig, name: str, latency: int) -> dict[str, Any]:
    return {
        "top": name,
        "parameters": config.to_mapping(),
        "ports": [vars(port) for port in macro_ports(config)],
        "load_fields": dict(LOAD_FIELDS),
        "run_fields": dict(RUN_FIELDS),
        "patterns": {str(index): str(pattern) for index, pattern in enumerate(config.patterns)},
        "errors": {str(int(kind)): kind.name.lower() for kind in ErrorKind},
        "modes": [
            {
                "pattern": str(pattern),
                "groups": groups,
                "tile_inputs": config.tile_inputs(pattern, groups),
                "tile_outputs": config.tile_outputs(groups),
                "issue_cycles": config.issue_cycles(pattern),
                "activation_beats": config.vector_beats(config.window(pattern, groups), config.rows),
                "result_beats": config.result_beats(groups),
            }
            for pattern, groups in config.modes
        ],
        "weight_beats": config.weight_beats(config.rows),
        "result_latency": latency,
        "lint_waivers": LINT_WAIVERS,
    }


def _header(interface: dict[str, Any]) -> str:
    """The comment at the top of the file, and the lint waivers."""
    parameters = interface["parameters"] | {"patterns": " ".join(interface["parameters"]["patterns"])}
    lines = [
        f"{interface['top']}: a digital compute-in-memory macro for N:M sparse weights, generated by FlexCiM.",
        "",
        "Parameters",
        *(f"  {key:<18} {value}" for key, value in parameters.items()),
        "",
        "Ports (payload fields from bit 0 up, with their widths; arrays with element 0 lowest)",
        *(f"  {p['direction']:<6} {p['width']:>5}  {p['name']:<20} {p['meaning']}" for p in interface["ports"]),
        "",
        "Patterns of the run command: " + ", ".join(f"{i} = {p}" for i, p in interface["patterns"].items()),
        "Error kinds: " + ", ".join(f"{i} = {kind}" for i, kind in interface["errors"].items()),
        f"A vector's first result beat comes {interface['result_latency']} cycles after its last issue cycle.",
    ]
    return comment_block(lines)
