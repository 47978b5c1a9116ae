"""An accelerator as a shared library, for programs that drive it through its buses."""

from __future__ import annotations

from flexcim.config.accelerator import AcceleratorConfig
from flexcim_hw.verilog.accelerator import generate_accelerator
from flexcim_sim.build.library import Library, build_library

__all__ = ["build_accelerator_library"]


def build_accelerator_library(config: AcceleratorConfig) -> Library:
    """Generate an accelerator's Verilog and build it under Verilator, unless it has been built before.

    Raises
    ------
    SimulatorError
        If a tool is missing, or the build fails.
    """
    return build_library(generate_accelerator(config))
