"""Plays what the other tests of an accelerator have not: programs that aim at missing crosses, until none is missing.

Run by cocotb in the simulator, after `flexcim_sim.bench.played.accelerator`.
"""

from __future__ import annotations

from collections.abc import Sequence

from numpy.random import Generator

from flexcim_sim.bench.benches.accelerator import AcceleratorBench
from flexcim_sim.bench.coverage.model import Cross
from flexcim_sim.bench.played.closure import close_coverage
from flexcim_sim.bench.played.job import accelerator_test
from flexcim_sim.bench.stimuli.accelerator_aimed import AimedPrograms


@accelerator_test
async def full_coverage(bench: AcceleratorBench, rng: Generator) -> None:
    """Each legal cross of the functional coverage is hit, by this test if by none before."""
    programs = AimedPrograms(bench.config, rng)

    async def play(missing: Sequence[Cross]) -> None:
        await bench.play(*programs.program(missing))

    await close_coverage(bench.coverage, play)
