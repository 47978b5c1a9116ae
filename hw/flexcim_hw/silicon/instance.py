"""One instance of the generator, measured: from its configuration to area and clock."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import MacroConfig
from flexcim.errors import FlexCiMError
from flexcim_hw.silicon.area import Area, measure_area
from flexcim_hw.silicon.library import CellLibrary
from flexcim_hw.silicon.memories import MemoryMacro
from flexcim_hw.silicon.synthesis import synthesise
from flexcim_hw.silicon.timing import Timing, measure_timing
from flexcim_hw.verilog.accelerator import generate_accelerator
from flexcim_hw.verilog.macro import GeneratedVerilog, generate

__all__ = ["Instance", "Method", "measure_instance"]


@dataclass(frozen=True)
class Method:
    """How instances are measured.

    Parameters
    ----------
    library : CellLibrary
        The cells.
    macros : tuple of MemoryMacro
        What memories may be made of, as the third way.
    period : float
        The clock period that logic is sized for and that the slack is against, ns.
    clock : bool
        Whether the clock is measured.
    cache : Path
        Folder of what is kept from run to run.
    """

    library: CellLibrary
    macros: tuple[MemoryMacro, ...]
    period: float
    clock: bool
    cache: Path


@dataclass(frozen=True)
class Instance:
    """What an instance takes.

    Parameters
    ----------
    name : str
        What it is called.
    rtl_sha256 : str
        Of the file that ``flexcim generate --no-init`` writes.
    area : Area
        Its area.
    timing : Timing or None
        Its clock; None where that was not measured.
    """

    name: str
    rtl_sha256: str
    area: Area
    timing: Timing | None


class MeasureError(FlexCiMError):
    """An instance that cannot be measured; the message names it."""


def measure_instance(
    name: str, config: MacroConfig | AcceleratorConfig, method: Method, step: Callable[[str], None]
) -> Instance:
    """Measure an instance.

    Parameters
    ----------
    name : str
        What it is called.
    config : MacroConfig or AcceleratorConfig
        The instance.
    method : Method
        How.
    step : callable
        Is told what begins.

    Raises
    ------
    MeasureError
        If it needs more memory than there is, or a tool fails.
    """
    try:
        step(f"{name}: mapping to cells")
        verilog = _generated(config)
        netlist = synthesise(verilog, method.library, method.cache, method.period)
        area = measure_area(netlist, method.library, method.macros)
        timing = None
        if method.clock:
            step(f"{name}: timing")
            timing = measure_timing(netlist, method.library, method.period, method.cache)
    except FlexCiMError as error:
        raise MeasureError(f"{name}: {error}") from None
    return Instance(name, hashlib.sha256(verilog.text.encode()).hexdigest(), area, timing)


def _generated(config: MacroConfig | AcceleratorConfig) -> GeneratedVerilog:
    if isinstance(config, AcceleratorConfig):
        return generate_accelerator(config, init=False)
    return generate(config, init=False)
