"""The accelerators where the quick tests have no time: all small instances in both simulators, presets at full size."""

from __future__ import annotations

import pytest

from flexcim.config.accelerator import ACCELERATOR_PRESETS
from flexcim_sim.bench.run.verify import verify_accelerator
from flexcim_sim.build.simulators import SIMULATORS
from tests.support.accelerators import ACCELERATORS

pytestmark = pytest.mark.regression


def failures(verification):
    return [f"{outcome.name}: {outcome.message} ({verification.folder})" for outcome in verification.failed]


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("name", ACCELERATORS)
def test_every_small_accelerator(name, simulator, tmp_path):
    for seed in range(3):
        assert not failures(verify_accelerator("small", ACCELERATORS[name], simulator, tmp_path, seed=seed))


@pytest.mark.parametrize("name", ACCELERATORS)
def test_without_initial_values(name, tmp_path):
    assert not failures(verify_accelerator("bare", ACCELERATORS[name], "icarus", tmp_path, seed=4, init=False))


@pytest.mark.parametrize("name", ACCELERATOR_PRESETS)
def test_every_preset_at_full_size(name, tmp_path):
    assert not failures(verify_accelerator(name, ACCELERATOR_PRESETS[name], "verilator", tmp_path, seed=5))
