"""Programs for an accelerator that aim at missing crosses: legal, and of all sources of activations."""

from __future__ import annotations

import numpy as np
import pytest

from flexcim.accelerator.instructions import AcceleratorError, RunTiles
from flexcim_sim.bench.coverage.counts import Coverage
from flexcim_sim.bench.coverage.model import coverage_axes
from flexcim_sim.bench.stimuli.accelerator_aimed import AimedPrograms
from flexcim_sim.golden.accelerator import GoldenAccelerator, WordStream
from tests.support.accelerators import ACCELERATORS


@pytest.mark.parametrize("name", ACCELERATORS)
def test_programs_that_follow_each_other_are_legal(name):
    config, rng = ACCELERATORS[name], np.random.default_rng(1)
    coverage, golden, programs = Coverage.of(config), GoldenAccelerator(config), AimedPrograms(config, rng)
    runs = []
    for _ in range(12):
        stimulus, goes = programs.program(coverage.missing)
        assert len(stimulus.program) <= config.program_depth
        assert set(goes) <= {"weights", "activations", "results"}
        streams = WordStream(stimulus.weights), WordStream(stimulus.activations)
        golden.execute(stimulus.program.words(config.macro), *streams)
        assert golden.error is AcceleratorError.NONE
        runs += [step for step in stimulus.program.carried_out() if isinstance(step, RunTiles)]
    assert {run.replay for run in runs} == {run.store for run in runs} == {False, config.activation_memory > 0}
    assert {run.macros for run in runs} >= {(index,) for index in range(config.macros)} - {(0,)}


def test_a_cross_that_is_missing_alone_is_played_beside_runs_from_the_stream():
    config, rng = ACCELERATORS["one macro"], np.random.default_rng(2)
    axes = [axis.name for axis in coverage_axes(config)]
    programs = AimedPrograms(config, rng)
    for cross in Coverage.of(config).missing[::97]:
        wanted = dict(zip(axes, cross, strict=True))
        found = []
        for _ in range(4):
            stimulus, _ = programs.program([cross])
            found += [step for step in stimulus.program.carried_out() if isinstance(step, RunTiles)]
        assert any(
            (str(run.pattern), str(run.groups), str(run.bank), run.replay, run.store)
            == (
                wanted["pattern"],
                wanted["groups"],
                wanted["bank"],
                wanted["source"] == "replay",
                wanted["source"] == "store",
            )
            for run in found
        )
        assert any(run.words for run in found)
