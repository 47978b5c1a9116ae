"""Small designs in the default library, and Yosys as a second opinion on what became of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from flexcim.config.macro import MacroConfig
from flexcim_hw.silicon.library import DEFAULT_LIBERTY, CellLibrary, read_library
from flexcim_hw.verilog.macro import GeneratedVerilog

__all__ = ["CELLS", "TINY", "default_library", "design", "tiny_liberty", "yosys"]

CELLS = DEFAULT_LIBERTY.with_name("osu018_stdcells.v")
"""The cells of the default library in Verilog, from the same package."""

TINY = MacroConfig.from_mapping(
    {
        "sub_macros": 2,
        "rows": 2,
        "columns": 2,
        "activation_port": 4,
        "result_port": 2,
        "accumulator_depth": 8,
        "patterns": ["1:1", "1:2", "2:4"],
    }
)
"""Four columns of two cells."""


def default_library() -> CellLibrary:
    """The library of the tests."""
    return read_library()


def design(text: str, top: str = "top") -> GeneratedVerilog:
    """Verilog by hand, as if it had been generated."""
    return GeneratedVerilog(text=text, top=top, interface={})


_YOSYS = """
import sys
from pyosys import libyosys
design = libyosys.Design()
for command in sys.argv[1:]:
    libyosys.run_pass(command, design)
"""


def yosys(folder: Path, *commands: str) -> dict[str, Any]:
    """Run commands of Yosys, which write ``out.json`` in the folder; returns what they wrote."""
    run = [sys.executable, "-c", _YOSYS, *commands]
    done = subprocess.run(run, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    found: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return found


_CELLS = {
    "NAND2": "area: 4; pin(A){direction: input; capacitance: 0.01;} pin(B){direction: input; capacitance: 0.01;} "
    'pin(Y){direction: output; function: "!(A B)";}',
    "BUF": "area: 3; pin(A){direction: input; capacitance: 0.02;} pin(Y){direction: output; function: A;}",
    "DFF": "area: 10; ff(IQ,IQN){clocked_on: CK; next_state: D;} pin(CK){direction: input;} pin(D){direction: input;} "
    'pin(Q){direction: output; function: "IQ";}',
    "LATCH": "area: 8; latch(IQ,IQN){enable: G; data_in: D;} pin(G){direction: input;} pin(D){direction: input;} "
    'pin(Q){direction: output; function: "IQ";}',
}


def tiny_liberty(**changed: str) -> str:
    """A Liberty file of four cells; a cell that is given is another one, an empty one is left out."""
    cells = [f"cell({name}) {{ {text} }}" for name, text in (_CELLS | changed).items() if text]
    head = ["library(tiny) {", "capacitive_load_unit(1, pf);", "nom_voltage : 1.0;", "nom_temperature : 25;"]
    return "\n".join([*head, *cells, "}", ""])
