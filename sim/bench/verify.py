"""Verifies one configuration in one simulator: generate, build, run all tests, and run what failed again with waves."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flexcim.accelerator_config import AcceleratorConfig
from flexcim.config import MacroConfig
from hw.accelerator_verilog import generate_accelerator
from hw.verilog import GeneratedVerilog, generate
from sim.bench.runner import Outcome, run_tests
from sim.bench.simulators import Build, SimulatorError, build, check_tools

__all__ = [
    "ACCELERATOR_TESTS",
    "MACRO_TESTS",
    "Verification",
    "verify_accelerator",
    "verify_configuration",
    "verify_macro",
]

MACRO_TESTS = ("sim.bench.macro_tests",)
"""The tests that every macro has to pass."""

ACCELERATOR_TESTS = ("sim.bench.accelerator_tests",)
"""The tests that every accelerator has to pass."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What verifying one configuration in one simulator gave.

    Parameters
    ----------
    label : str
        The configuration's name.
    config : MacroConfig or AcceleratorConfig
        The configuration.
    init : bool
        Whether registers have initial values in the Verilog.
    simulator : str
        The simulator.
    seed : int
        The seed of all chance.
    outcomes : tuple of Outcome
        One for each test.
    build_seconds : float
        Time until the simulator was built, or found built.
    folder : Path
        Where the log is.
    waves : Path or None
        Waves, if any were written.
    """

    label: str
    config: MacroConfig | AcceleratorConfig
    init: bool
    simulator: str
    seed: int
    outcomes: tuple[Outcome, ...]
    build_seconds: float
    folder: Path
    waves: Path | None

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The tests that failed."""
        return tuple(outcome for outcome in self.outcomes if not outcome.passed)


def verify_macro(
    label: str,
    config: MacroConfig,
    simulator: str,
    folder: Path,
    *,
    seed: int,
    init: bool = True,
    waves: bool = False,
    verilog: GeneratedVerilog | None = None,
) -> Verification:
    """Verify a macro. What goes wrong in building or running the design is an outcome like a failed test.

    Parameters
    ----------
    label : str
        The configuration's name, for the reader.
    config : MacroConfig
        The configuration.
    simulator : str
        One of `sim.bench.simulators.SIMULATORS`.
    folder : Path
        Where logs and waves go.
    seed : int
        The seed of all chance.
    init : bool
        Whether registers have initial values in the Verilog.
    waves : bool
        Write waves from the beginning, not only of tests that failed.
    verilog : GeneratedVerilog, optional
        What to verify; by default, what is generated from the configuration.

    Raises
    ------
    SimulatorError
        If a tool is missing.
    """
    return _verify(
        label,
        config,
        MACRO_TESTS,
        lambda: verilog or generate(config, init=init),
        simulator,
        folder,
        seed=seed,
        init=init,
        waves=waves,
    )


def verify_accelerator(
    label: str,
    config: AcceleratorConfig,
    simulator: str,
    folder: Path,
    *,
    seed: int,
    init: bool = True,
    waves: bool = False,
    verilog: GeneratedVerilog | None = None,
) -> Verification:
    """Verify an accelerator, likewise; see `verify_macro` for the parameters."""
    return _verify(
        label,
        config,
        ACCELERATOR_TESTS,
        lambda: verilog or generate_accelerator(config, init=init),
        simulator,
        folder,
        seed=seed,
        init=init,
        waves=waves,
    )


def verify_configuration(
    label: str,
    config: MacroConfig | AcceleratorConfig,
    simulator: str,
    folder: Path,
    *,
    seed: int,
    init: bool = True,
    waves: bool = False,
) -> Verification:
    """Verify a macro or an accelerator; see `verify_macro` for the parameters."""
    if isinstance(config, AcceleratorConfig):
        return verify_accelerator(label, config, simulator, folder, seed=seed, init=init, waves=waves)
    return verify_macro(label, config, simulator, folder, seed=seed, init=init, waves=waves)


def _verify(
    label: str,
    config: MacroConfig | AcceleratorConfig,
    tests: str,
    make: Callable[[], GeneratedVerilog],
    simulator: str,
    folder: Path,
    *,
    seed: int,
    init: bool,
    waves: bool,
) -> Verification:
    check_tools(simulator)
    begun = time.perf_counter()
    build_seconds = 0.0
    waves_file = None
    try:
        design = make()
        built = build(design, simulator, waves=waves)
        build_seconds = time.perf_counter() - begun
        outcomes = run_tests(built, config, tests, folder, seed=seed)
        failed = [outcome.name for outcome in outcomes if not outcome.passed]
        if waves:
            waves_file = _waves_file(built, folder)
        elif failed:
            waves_file = _write_waves(design, config, tests, simulator, folder / "waves", seed, failed)
    except SimulatorError as error:
        seconds = time.perf_counter() - begun
        outcomes = [Outcome(name="simulation", passed=False, seconds=seconds, results=0, cycles=0, message=str(error))]
    return Verification(
        label=label,
        config=config,
        init=init,
        simulator=simulator,
        seed=seed,
        outcomes=tuple(outcomes),
        build_seconds=build_seconds,
        folder=folder,
        waves=waves_file,
    )


def _write_waves(
    design: GeneratedVerilog,
    config: MacroConfig | AcceleratorConfig,
    module: str,
    simulator: str,
    folder: Path,
    seed: int,
    tests: list[str],
) -> Path | None:
    """Run tests again in a build that writes waves, as such builds are slower; None if that fails."""
    with suppress(SimulatorError):  # the tests that failed are what matters
        built = build(design, simulator, waves=True)
        run_tests(built, config, module, folder, seed=seed, tests=tests)
        return _waves_file(built, folder)
    return None


def _waves_file(built: Build, folder: Path) -> Path | None:
    """Where a build wrote its waves when it ran in this folder."""
    file = folder / ("dump.vcd" if built.simulator == "verilator" else f"{built.top}.fst")
    return file if file.is_file() else None
