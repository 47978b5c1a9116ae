"""From a configuration to Verilog: each distinct module once, a header that explains it, and a JSON beside it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth.lib import wiring

from flexcim.config.macro import MacroConfig
from flexcim.files import check_writable, write_text
from flexcim_hw.common.shared_modules import SharedModules
from flexcim_hw.macro.macro import Macro
from flexcim_hw.verilog.interface import describe, header_lines

__all__ = [
    "GeneratedVerilog",
    "check_module_name",
    "comment_block",
    "emit",
    "generate",
    "is_module_name",
    "lint_waivers",
    "write_verilog",
]

_LINT_WAIVERS = {
    "CASEINCOMPLETE": "codes that select nothing keep the value assigned before the case",
    "DECLFILENAME": "all modules are in one file",
    "UNUSEDSIGNAL": "Yosys keeps names for fields and intermediate values that nothing reads",
    "WIDTHEXPAND": "Yosys writes operands at their own width and leaves the extension to the language",
    "WIDTHTRUNC": "Yosys writes 'equal to zero' as a logical not, and takes the low bits of shifts",
}

_INIT_WAIVER = {
    "PROCASSINIT": "registers have initial values, which FPGAs honour; generate with --no-init to leave them out"
}

_FIELD = r"\\\S+\.\S+ "
"""A wire that Amaranth adds for a field of a payload, as Verilog writes its name."""

_WAKE = r"\\\$wake "
"""The register on which Yosys makes combinational processes wait at time zero, as it is named here."""


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
        What the JSON beside it says (`flexcim_hw.verilog.interface.describe`), and the lint waivers.
    """

    text: str
    top: str
    interface: dict[str, Any]


def lint_waivers(*, init: bool) -> dict[str, str]:
    """What `verilator --lint-only -Wall` says of any Verilog that Yosys writes, each with why it is no finding.

    Parameters
    ----------
    init : bool
        Whether registers have initial values.
    """
    return dict(sorted((_LINT_WAIVERS | (_INIT_WAIVER if init else {})).items()))


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
    text = emit(Macro(config), name, init=init)
    interface = describe(config, name, init=init) | {"lint_waivers": lint_waivers(init=init)}
    return GeneratedVerilog(
        text=comment_block(header_lines(interface), init=init) + text, top=name, interface=interface
    )


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


def comment_block(lines: Iterable[str], *, init: bool) -> str:
    """Lines as a Verilog comment, with the lint waivers behind it: what a generated file begins with."""
    comment = "".join(f"// {line}".rstrip() + "\n" for line in lines)
    waivers = "".join(
        f"/* verilator lint_off {name} */ // {reason}\n" for name, reason in lint_waivers(init=init).items()
    )
    return f"{comment}\n{waivers}\n"


def write_verilog(verilog: GeneratedVerilog, folder: Path) -> tuple[Path, Path]:
    """Write ``<top>.v`` and ``<top>.json`` into the folder, each atomically; returns their paths.

    Raises
    ------
    OSError
        If they cannot be written; where that is seen beforehand, neither is.
    """
    source, description = folder / f"{verilog.top}.v", folder / f"{verilog.top}.json"
    check_writable(source, description)
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
    text = re.sub(r"^module .*?^endmodule$", _without_unread_fields, text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"\\\$auto\$verilog_backend\S+ ", r"\\$wake ", text)


def _without_unread_fields(module: re.Match[str]) -> str:
    """Leave out the wires that Amaranth adds for each field of a payload, but for those that something reads."""
    text = module[0]
    while True:
        counts = Counter(re.findall(_FIELD, text))
        # One that stands twice stands in its declaration and before the sign of its assignment.
        assigned = re.findall(rf"^  assign ({_FIELD}) = ", text, re.MULTILINE)
        unread = [name for name in assigned if counts[name] == 2]
        if not unread:
            return text
        names = "|".join(map(re.escape, unread))
        lines = rf"^  (?:wire (?:signed )?(?:\[\d+:\d+\] )?(?:{names});|assign (?:{names}) = [^;]*;)\n"
        text = re.sub(lines, "", text, flags=re.MULTILINE)


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
