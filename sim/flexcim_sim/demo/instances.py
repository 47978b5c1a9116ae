"""The macros of the demonstration: the default one, a small one, and dense ones with the same cells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flexcim.config.macro import MacroConfig, preset
from flexcim_hw.verilog.macro import GeneratedVerilog, generate, write_verilog
from flexcim_sim.build.simulators import build

__all__ = ["FULL", "FULL_DENSE", "SMALL", "SMALL_DENSE", "Instance", "prepare"]


@dataclass(frozen=True)
class Instance:
    """A macro and the simulator that it runs in.

    Parameters
    ----------
    preset : str
        The preset that it is of.
    config : MacroConfig
        Its configuration.
    simulator : str
        One of `flexcim_sim.build.simulators.SIMULATORS`.
    """

    preset: str
    config: MacroConfig
    simulator: str

    @property
    def cells(self) -> str:
        """S x R x C."""
        return f"{self.config.sub_macros}x{self.config.rows}x{self.config.columns}"

    @property
    def label(self) -> str:
        """A name that can be a folder's."""
        return f"{self.preset}-{self.cells}"


# Icarus knows unknown bits, which Verilator does not, but is slow: it gets a macro of 64 cells.
_SMALL = {"rows": 4, "columns": 4}

FULL = Instance("flexcim", preset("flexcim"), "verilator")
FULL_DENSE = Instance("dense", preset("dense"), "verilator")
SMALL = Instance("flexcim", MacroConfig.from_mapping(_SMALL, preset("flexcim")), "icarus")
SMALL_DENSE = Instance("dense", MacroConfig.from_mapping(_SMALL, preset("dense")), "icarus")


def prepare(instance: Instance, folder: Path) -> GeneratedVerilog:
    """Generate an instance, write its Verilog and description into a subfolder, and have its simulator built.

    Raises
    ------
    SimulatorError
        If the build fails.
    OSError
        If the folder cannot be written.
    """
    verilog = generate(instance.config)
    write_verilog(verilog, folder / instance.label)
    build(verilog, instance.simulator)
    return verilog
