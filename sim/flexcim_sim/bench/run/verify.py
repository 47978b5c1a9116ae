"""Verifies one configuration in one simulator: generate, build, run all tests, and run what failed again with waves."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import MacroConfig
from flexcim_hw.verilog.accelerator import generate_accelerator
from flexcim_hw.verilog.macro import GeneratedVerilog, generate
from flexcim_sim.bench.coverage.accelerator import probes
from flexcim_sim.bench.coverage.counts import Coverage
from flexcim_sim.bench.run.runner import Outcome, run_tests
from flexcim_sim.build.simulators import Build, SimulatorError, build, check_tools

__all__ = [
    "ACCELERATOR_TESTS",
    "MACRO_TESTS",
    "Verification",
    "verify_accelerator",
    "verify_configuration",
    "verify_macro",
]

MACRO_TESTS = ("flexcim_sim.bench.played.macro",)
"""Modules of the tests that every macro has to pass."""

ACCELERATOR_TESTS = ("flexcim_sim.bench.played.accelerator",)
"""Modules of the tests that every accelerator has to pass."""

_MACRO_COVERAGE_TESTS = ("flexcim_sim.bench.played.macro_coverage",)
_ACCELERATOR_COVERAGE_TESTS = ("flexcim_sim.bench.played.accelerator_coverage",)


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
    design : str
        SHA-256 of the Verilog, which tells what the coverage is of.
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
    design: str = ""

    @property
    def coverage(self) -> Coverage:
        """The functional coverage of the tests that passed, together."""
        coverage = Coverage.of(self.config)
        for outcome in self.outcomes:
            for cross, runs in outcome.covered.items():
                coverage.add(cross, runs)
        return coverage

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
    full_coverage: bool = False,
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
        One of `flexcim_sim.build.simulators.SIMULATORS`.
    folder : Path
        Where logs and waves go.
    seed : int
        The seed of all chance.
    init : bool
        Whether registers have initial values in the Verilog.
    waves : bool
        Write waves from the beginning, not only of tests that failed.
    full_coverage : bool
        Play on, aiming at the crosses of the functional coverage that the tests have not hit, until all are hit.
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
        MACRO_TESTS + (_MACRO_COVERAGE_TESTS if full_coverage else ()),
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
    full_coverage: bool = False,
    verilog: GeneratedVerilog | None = None,
) -> Verification:
    """Verify an accelerator, likewise; see `verify_macro` for the parameters."""
    return _verify(
        label,
        config,
        ACCELERATOR_TESTS + (_ACCELERATOR_COVERAGE_TESTS if full_coverage else ()),
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
    full_coverage: bool = False,
) -> Verification:
    """Verify a macro or an accelerator; see `verify_macro` for the parameters."""
    if isinstance(config, AcceleratorConfig):
        return verify_accelerator(
            label, config, simulator, folder, seed=seed, init=init, waves=waves, full_coverage=full_coverage
        )
    return verify_macro(
        label, config, simulator, folder, seed=seed, init=init, waves=waves, full_coverage=full_coverage
    )


def _verify(
    label: str,
    config: MacroConfig | AcceleratorConfig,
    tests: tuple[str, ...],
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
    waves_file, digest = None, ""
    try:
        design = make()
        digest = hashlib.sha256(design.text.encode()).hexdigest()
        built = build(design, simulator, waves=waves, probes=_probes(config, design))
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
        design=digest,
    )


def _probes(config: MacroConfig | AcceleratorConfig, design: GeneratedVerilog) -> Mapping[str, Sequence[str]]:
    """What the bench has to see inside the design: a macro alone shows all that coverage needs."""
    return probes(design.top) if isinstance(config, AcceleratorConfig) else {}


def _write_waves(
    design: GeneratedVerilog,
    config: MacroConfig | AcceleratorConfig,
    modules: tuple[str, ...],
    simulator: str,
    folder: Path,
    seed: int,
    tests: list[str],
) -> Path | None:
    """Run tests again in a build that writes waves, as such builds are slower; None if that fails."""
    with suppress(SimulatorError):  # the tests that failed are what matters
        built = build(design, simulator, waves=True, probes=_probes(config, design))
        run_tests(built, config, modules, folder, seed=seed, tests=tests)
        return _waves_file(built, folder)
    return None


def _waves_file(built: Build, folder: Path) -> Path | None:
    """Where a build wrote its waves when it ran in this folder."""
    file = folder / ("dump.vcd" if built.simulator == "verilator" else f"{built.top}.fst")
    return file if file.is_file() else None
