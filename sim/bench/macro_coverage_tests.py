"""Plays what the other tests of a macro have not: programs that aim at missing crosses, until none is missing.

Run by cocotb in the simulator, after `sim.bench.macro_tests`.
"""

from __future__ import annotations

from collections.abc import Sequence

from numpy.random import Generator

from sim.bench.coverage_closure import close_coverage
from sim.bench.coverage_model import Cross
from sim.bench.coverage_stimulus import aimed_program
from sim.bench.job import bench_test
from sim.bench.macro_bench import MacroBench


@bench_test
async def full_coverage(bench: MacroBench, rng: Generator) -> None:
    """Each legal cross of the functional coverage is hit, by this test if by none before."""

    async def play(missing: Sequence[Cross]) -> None:
        await bench.play(*aimed_program(bench.config, missing, rng))
        await bench.reset()

    await close_coverage(bench.coverage, play)
