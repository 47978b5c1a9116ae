"""What the bench and its simulator process tell each other, through files in the folder that the simulator runs in."""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import cocotb
import numpy as np
from numpy.random import Generator

from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import MacroConfig
from flexcim_sim.bench.benches.accelerator import AcceleratorBench
from flexcim_sim.bench.benches.macro import MacroBench
from flexcim_sim.bench.coverage.counts import CoverageGapError

__all__ = [
    "CONFIG_FILE",
    "LAYER_FILE",
    "LAYER_RESULT_FILE",
    "LAYER_TRACE_FILE",
    "REPORT_FILE",
    "accelerator_test",
    "bench_test",
    "reported",
]

CONFIG_FILE = "config.json"
"""The parameters, as ``to_mapping`` of the configuration gives them."""

REPORT_FILE = "report.jsonl"
"""A line for each test that passed, or lacks nothing but coverage: its name, the results that it compared, the cycles
that it simulated, and the crosses that it covered with their numbers of runs."""

LAYER_FILE = "layer.npz"
"""A layer to run: its shape and mode as JSON, the packed arrays and the activations."""

LAYER_RESULT_FILE = "layer-result.npz"
"""What it gave: its outputs, the measured and the predicted cycles."""

LAYER_TRACE_FILE = "layer-trace.json"
"""What the pins of each stream showed, if that was asked for."""


_Bench = TypeVar("_Bench", MacroBench, AcceleratorBench)


def bench_test(body: Callable[[MacroBench, Generator], Awaitable[None]]) -> Any:
    """Make a cocotb test of a coroutine that gets a bench whose macro was reset, and its own source of chance.

    Chance comes from the run's seed and the test's name, so a test repeats itself no matter which others run.
    """
    return _cocotb_test(body, lambda dut, values: MacroBench(dut, MacroConfig.from_mapping(values)))


def accelerator_test(body: Callable[[AcceleratorBench, Generator], Awaitable[None]]) -> Any:
    """The same with an accelerator."""
    return _cocotb_test(body, lambda dut, values: AcceleratorBench(dut, AcceleratorConfig.from_mapping(values)))


def _cocotb_test(
    body: Callable[[_Bench, Generator], Awaitable[None]], make: Callable[[Any, Mapping[str, Any]], _Bench]
) -> Any:
    @functools.wraps(body)
    async def test(dut: Any) -> None:
        bench = make(dut, json.loads(Path(CONFIG_FILE).read_text()))
        await bench.reset()
        try:
            await body(bench, np.random.default_rng([cocotb.RANDOM_SEED, zlib.crc32(body.__name__.encode())]))
        except CoverageGapError:  # what was not hit says nothing against what was
            _report(body.__name__, bench)
            raise
        _report(body.__name__, bench)

    return cocotb.test()(test)


def _report(name: str, bench: MacroBench | AcceleratorBench) -> None:
    line = {
        "test": name,
        "results": bench.results,
        "cycles": bench.cycles,
        "covered": [[*cross, runs] for cross, runs in bench.coverage.seen.items()],
    }
    with open(REPORT_FILE, "a") as report:
        report.write(json.dumps(line) + "\n")


def reported() -> list[dict[str, Any]]:
    """What the tests before this one have reported."""
    report = Path(REPORT_FILE)
    return [json.loads(line) for line in report.read_text().splitlines()] if report.is_file() else []
