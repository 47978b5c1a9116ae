"""What the bench and its simulator process tell each other, through files in the folder that the simulator runs in."""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from numpy.random import Generator

from flexcim.config import MacroConfig
from sim.bench.macro_bench import MacroBench

__all__ = ["CONFIG_FILE", "LAYER_FILE", "LAYER_RESULT_FILE", "REPORT_FILE", "bench_test"]

CONFIG_FILE = "config.json"
"""The macro's parameters, as ``MacroConfig.to_mapping`` gives them."""

REPORT_FILE = "report.jsonl"
"""A line for each test that passed: its name, the results that it compared, and the cycles that it simulated."""

LAYER_FILE = "layer.npz"
"""A layer to run: its shape and mode as JSON, the packed arrays and the activations."""

LAYER_RESULT_FILE = "layer-result.npz"
"""What it gave: its outputs, the measured and the predicted cycles."""


def bench_test(body: Callable[[MacroBench, Generator], Awaitable[None]]) -> Any:
    """Make a cocotb test of a coroutine that gets a bench whose macro was reset, and its own source of chance.

    Chance comes from the run's seed and the test's name, so a test repeats itself no matter which others run.
    """

    @functools.wraps(body)
    async def test(dut: Any) -> None:
        config = MacroConfig.from_mapping(json.loads(Path(CONFIG_FILE).read_text()))
        bench = MacroBench(dut, config)
        await bench.reset()
        await body(bench, np.random.default_rng([cocotb.RANDOM_SEED, zlib.crc32(body.__name__.encode())]))
        line = {"test": body.__name__, "results": bench.results, "cycles": bench.cycles}
        with open(REPORT_FILE, "a") as report:
            report.write(json.dumps(line) + "\n")

    return cocotb.test()(test)
