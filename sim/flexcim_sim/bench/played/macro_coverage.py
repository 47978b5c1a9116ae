"""Plays what the other tests of a macro have not: programs that aim at missing crosses, until none is missing.

Run by cocotb in the simulator, after `flexcim_sim.bench.played.macro`.
"""

from __future__ import annotations

from collections.abc import Sequence

from numpy.random import Generator

from flexcim_sim.bench.benches.macro import MacroBench
from flexcim_sim.bench.coverage.model import Cross
from flexcim_sim.bench.played.closure import close_coverage
from flexcim_sim.bench.played.job import bench_test
from flexcim_sim.bench.stimuli.aimed import aimed_program


@bench_test
async def full_coverage(bench: MacroBench, rng: Generator) -> None:
    """Each legal cross of the functional coverage is hit, by this test if by none before."""

    async def play(missing: Sequence[Cross]) -> None:
        await bench.play(*aimed_program(bench.config, missing, rng))
        await bench.reset()

    await close_coverage(bench.coverage, play)
