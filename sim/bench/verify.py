"""Verifies one configuration in one simulator: generate, build, run all tests, and run what failed again with waves."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from flexcim.config import MacroConfig
from hw.verilog import generate
from sim.bench.runner import Outcome, run_tests
from sim.bench.simulators import Build, build

__all__ = ["TEST_MODULE", "Verification", "verify_macro"]

TEST_MODULE = "sim.bench.macro_tests"
"""The tests that every macro has to pass."""


@dataclass(frozen=True)
class Verification:
    """What verifying one configuration in one simulator gave.

    Parameters
    ----------
    label : str
        The configuration's name.
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
        Waves of the failed tests.
    """

    label: str
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
) -> Verification:
    """Verify a configuration.

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

    Raises
    ------
    SimulatorError
        If the simulator is missing, or fails to build or to run.
    """
    begun = time.perf_counter()
    verilog = generate(config, init=init)
    built = build(verilog, simulator, waves=waves)
    build_seconds = time.perf_counter() - begun
    outcomes = run_tests(built, config, TEST_MODULE, folder, seed=seed)
    failed = [outcome.name for outcome in outcomes if not outcome.passed]
    if failed and not waves:
        built = build(verilog, simulator, waves=True)
        run_tests(built, config, TEST_MODULE, folder / "waves", seed=seed, tests=failed)
        folder_of_waves: Path | None = folder / "waves"
    else:
        folder_of_waves = folder if waves else None
    file = _waves_file(built, folder_of_waves) if folder_of_waves else None
    return Verification(label, simulator, seed, tuple(outcomes), build_seconds, folder, file)


def _waves_file(built: Build, folder: Path) -> Path:
    """Where a build writes its waves when it runs in this folder."""
    return folder / ("dump.vcd" if built.simulator == "verilator" else f"{built.top}.fst")
