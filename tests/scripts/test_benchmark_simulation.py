"""The three benches of the simulation's benchmark: the same results and cycles from each, and wrong ones are seen.

Two of them are built nowhere else, which takes half a minute: the regression does that.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from scripts.benchmark_simulation import BARE, COCOTB, HARNESS, Benches, Timing, random_job

pytestmark = pytest.mark.simulator

CONFIG = AcceleratorConfig(macro=MacroConfig(rows=4, columns=4, patterns=(Pattern(4, 10),)), macros=2)
SIZE = 24


@cache
def benches():
    return Benches(CONFIG)


@pytest.mark.regression
def test_each_bench_carries_the_whole_job_out(tmp_path):
    job = random_job(CONFIG, SIZE, seed=1)
    job.write(tmp_path)
    timings = benches().turn(job, tmp_path)
    assert list(timings) == [BARE, HARNESS, COCOTB]
    assert all(timing.seconds > 0 for timing in timings.values())
    # The others' cycles include the program's way into its memory, a word of it at a time.
    assert timings[COCOTB].cycles < min(timings[BARE].cycles, timings[HARNESS].cycles) - job.program.size
    assert (tmp_path / "results.bin").read_bytes() == job.results.tobytes()


@pytest.mark.regression
def test_wrong_results_are_seen(tmp_path):
    job = random_job(CONFIG, SIZE, seed=2)
    wrong = replace(job, results=job.results ^ np.uint8(1))
    wrong.write(tmp_path)
    with pytest.raises(SystemExit, match="the bare main's results are not the golden accelerator's"):
        benches().turn(wrong, tmp_path)
    with pytest.raises(SystemExit, match="the harness's results are not the golden accelerator's"):
        benches().harness(wrong)


def test_rates_are_of_cpu_time():
    timing = Timing(cycles=3_000, seconds=1.5)
    assert timing.rate == 2_000
    assert timing.row(macs=6_000_000) == ("2,000", "4,000,000")
