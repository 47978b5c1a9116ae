"""The accelerator's core: programs are bit exact by the golden accelerator, and cycle exact by the cycle model."""

from __future__ import annotations

import numpy as np
import pytest

from flexcim.accelerator_cycles import AcceleratorTiming, stall_pattern
from sim.bench.accelerator_stimulus import RandomPrograms
from sim.golden.accelerator import GoldenAccelerator, WordStream
from tests.accelerators import ACCELERATORS, play

for_each_accelerator = pytest.mark.parametrize("config", ACCELERATORS.values(), ids=ACCELERATORS)


def check(config, stimuli, played, stalls=None):
    """Compare programs that followed each other with the golden accelerator and with the cycle model."""
    golden, timing = GoldenAccelerator(config), AcceleratorTiming(config)
    for stimulus, core in zip(stimuli, played, strict=True):
        expected = golden.execute(
            stimulus.program.words(config.macro), WordStream(stimulus.weights), WordStream(stimulus.activations)
        )
        assert core.error == golden.error == 0
        assert core.results.tobytes() == expected.results.tobytes()
        assert core.packets == expected.packets
        predicted = timing.run(stimulus.program, stalls)
        assert core.counters == {name: getattr(predicted, name) for name in core.counters}
        assert len(core.data) == predicted.result_words
        assert len(stimulus.weights) == predicted.weight_words
        assert len(stimulus.activations) == predicted.activation_words


@for_each_accelerator
def test_random_programs_are_bit_and_cycle_exact(config):
    programs = RandomPrograms(config, np.random.default_rng(51))
    stimuli = [programs.program(layers=3, max_vectors=4) for _ in range(3)]
    check(config, stimuli, play(config, stimuli, limit=20_000))


@for_each_accelerator
@pytest.mark.parametrize("seed", range(2))
def test_random_programs_are_bit_and_cycle_exact_with_stalls(config, seed):
    rng = np.random.default_rng([52, seed])
    programs = RandomPrograms(config, rng)
    stimuli = [programs.program(layers=3, max_vectors=4) for _ in range(2)]
    stalls = {
        name: stall_pattern([True, *(rng.random(97) < rng.choice([0.1, 0.5, 0.9])).tolist()])
        for name in ("weights", "activations", "results")
    }
    check(config, stimuli, play(config, stimuli, 40_000, stalls), stalls)
