"""Runs the cocotb tests of the bench in a build, and reads back what became of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from cocotb_tools.runner import get_runner

from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import MacroConfig
from flexcim.files import write_text
from flexcim_sim.bench.coverage.model import Cross
from flexcim_sim.bench.played.job import CONFIG_FILE, REPORT_FILE
from flexcim_sim.build.simulators import Build, SimulatorError

__all__ = ["Outcome", "run_tests"]

MAX_SEED = (1 << 31) - 1
"""Largest seed of Verilator."""


@dataclass(frozen=True)
class Outcome:
    """What became of a test.

    Parameters
    ----------
    name : str
        The test.
    passed : bool
        Whether it passed.
    seconds : float
        How long it took.
    results, cycles : int
        Results compared with the golden model, and cycles simulated; 0 if it failed.
    message : str
        Why it failed.
    covered : mapping of Cross to int
        The crosses of the functional coverage that it has seen, and the runs of each; none if it failed.
    """

    name: str
    passed: bool
    seconds: float
    results: int
    cycles: int
    message: str
    covered: Mapping[Cross, int] = field(default_factory=dict)


def run_tests(
    build: Build,
    config: MacroConfig | AcceleratorConfig,
    modules: Sequence[str],
    folder: Path,
    *,
    seed: int,
    tests: Sequence[str] | None = None,
) -> list[Outcome]:
    """Run the tests of some modules, one module after the other.

    Parameters
    ----------
    build : Build
        Where to run them. If it can write waves, it does, into ``folder``.
    config : MacroConfig or AcceleratorConfig
        The configuration that the build was generated from.
    modules : sequence of str
        Python modules of the tests.
    folder : Path
        Where the simulator runs: its log and other files go there.
    seed : int
        Seed of all chance.
    tests : sequence of str, optional
        Names of the tests to run; all by default.

    Raises
    ------
    SimulatorError
        If the simulator ends without results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / CONFIG_FILE, json.dumps(config.to_mapping()))
    results, report, log = folder / "results.xml", folder / REPORT_FILE, folder / "simulation.log"
    for file in (results, report):
        file.unlink(missing_ok=True)
    logging.getLogger("Verilator").setLevel(logging.ERROR)
    # Failed tests make the runner raise or exit, depending on who calls; the file of results says more.
    with suppress(RuntimeError, SystemExit):
        get_runner(build.simulator).test(
            test_module=modules,
            hdl_toplevel=build.top,
            hdl_toplevel_lang="verilog",
            build_dir=build.folder,
            test_dir=folder,
            results_xml=str(results.absolute()),
            log_file=log,
            seed=seed,
            testcase=tests,
            # Whatever has no initial value starts at random in Verilator, as it starts unknown in Icarus.
            plusargs=["+verilator+rand+reset+2", f"+verilator+seed+{seed % MAX_SEED + 1}"],
            waves=build.waves,
        )
    if not results.is_file():
        raise SimulatorError(f"{build.simulator} ended without results; its log is {log}")
    measured = [json.loads(line) for line in report.read_text().splitlines()] if report.is_file() else []
    counts = {line["test"]: line for line in measured}
    return [
        _outcome(case, counts.get(case.get("name", ""), {})) for case in ElementTree.parse(results).iter("testcase")
    ]


def _outcome(case: ElementTree.Element, counts: dict[str, Any]) -> Outcome:
    failure = case.find("failure")
    if failure is None:
        failure = case.find("error")
    return Outcome(
        name=case.get("name", ""),
        passed=failure is None,
        seconds=float(case.get("time", 0)),
        results=counts.get("results", 0),
        cycles=counts.get("cycles", 0),
        message="" if failure is None else failure.get("error_msg") or failure.get("message") or "no reason given",
        covered={tuple(cross): runs for *cross, runs in counts.get("covered", [])},
    )
