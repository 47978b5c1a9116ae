"""Programs that aim at missing crosses: legal, and at what they say."""

from __future__ import annotations

import numpy as np
import pytest

from flexcim.config.macro import MacroConfig
from flexcim.macro.commands import ErrorKind
from flexcim_sim.bench.benches.checker import expect
from flexcim_sim.bench.coverage.counts import Coverage
from flexcim_sim.bench.coverage.model import coverage_axes, data_streams
from flexcim_sim.bench.stimuli.aimed import aimed_program, choose_aims
from tests.support.simulation import CONFIGS


def commands(stimulus):
    """Pattern, groups, bank and position of each run."""
    positions = {(True, True): "only", (True, False): "first", (False, False): "middle", (False, True): "last"}
    return {
        (str(run.pattern), str(run.groups), str(run.bank), positions[run.first_k, run.last_k])
        for run in stimulus.program.runs
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_programs_are_legal_and_pause_what_they_mean_to(name):
    config, rng = CONFIGS[name], np.random.default_rng(1)
    missing = Coverage.of(config).missing
    place = [axis.name for axis in coverage_axes(config)].index("stall")
    for stall in {cross[place] for cross in missing}:
        alike = [cross for cross in missing if cross[place] == stall]
        for _ in range(4):
            stimulus, pauses = aimed_program(config, alike, rng)
            assert expect(stimulus).error is ErrorKind.NONE
            paused = set(pauses) - {"load", "run"}
            assert paused <= set(data_streams(config))
            if stall != "several":
                assert paused == ({stall} - {"none"})


@pytest.mark.parametrize("name", CONFIGS)
def test_a_cross_that_is_missing_alone_is_played(name):
    config, rng = CONFIGS[name], np.random.default_rng(2)
    axes = [axis.name for axis in coverage_axes(config)]
    missing = Coverage.of(config).missing
    for index in rng.integers(len(missing), size=20):
        wanted = dict(zip(axes, missing[index], strict=True))
        target = tuple(wanted[name] for name in ("pattern", "groups", "bank", "position"))
        played = [commands(aimed_program(config, [missing[index]], rng)[0]) for _ in range(2)]
        assert any(target in them for them in played)


def test_neighbours_that_aim_at_nothing_come_between():
    config, rng = CONFIGS["serial"], np.random.default_rng(3)
    cross = Coverage.of(config).missing[0]
    _, aims = choose_aims(config, [cross], rng, 100)
    without = [aim for aim in aims if not any(aim.tiles)]
    assert 5 < len(without) < 50
    assert len({aim.pattern for aim in without}) > 2


def test_accumulations_fit_the_memory_of_the_accumulator():
    config = MacroConfig.from_mapping({"rows": 2, "columns": 2, "result_port": 2, "accumulator_depth": 4})
    coverage, rng = Coverage.of(config), np.random.default_rng(4)
    for _ in range(20):
        stimulus, _ = aimed_program(config, coverage.missing, rng)
        assert expect(stimulus).error is ErrorKind.NONE
