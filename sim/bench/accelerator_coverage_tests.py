"""Plays what the other tests of an accelerator have not: programs that aim at missing crosses, until none is missing.

Run by cocotb in the simulator, after `sim.bench.accelerator_tests`.
"""

from __future__ import annotations

from collections.abc import Sequence

from numpy.random import Generator

from sim.bench.accelerator_bench import AcceleratorBench
from sim.bench.accelerator_coverage_stimulus import AimedPrograms
from sim.bench.coverage_closure import close_coverage
from sim.bench.coverage_model import Cross
from sim.bench.job import accelerator_test


@accelerator_test
async def full_coverage(bench: AcceleratorBench, rng: Generator) -> None:
    """Each legal cross of the functional coverage is hit, by this test if by none before."""
    programs = AimedPrograms(bench.config, rng)

    async def play(missing: Sequence[Cross]) -> None:
        await bench.play(*programs.program(missing))

    await close_coverage(bench.coverage, play)
