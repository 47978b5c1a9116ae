"""The accelerator between bus models that this project did not write, under both simulators."""

from __future__ import annotations

import pytest

from flexcim_hw.verilog.accelerator import generate_accelerator
from flexcim_sim.bench.run.runner import run_tests
from flexcim_sim.build.simulators import SIMULATORS, build
from tests.support.accelerators import ACCELERATORS

pytestmark = pytest.mark.simulator

CONFIG = ACCELERATORS["one bank, parallel"]
SEED = 33


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.slow
def test_the_models_of_cocotbext_axi_drive_the_accelerator(simulator, tmp_path):
    built = build(generate_accelerator(CONFIG), simulator)
    outcomes = run_tests(built, CONFIG, ("tests.sim.bench.axi_models_bench",), tmp_path, seed=SEED)
    assert [(outcome.name, outcome.message) for outcome in outcomes] == [("programs", ""), ("refusals", "")]
    assert all(outcome.results > 100 for outcome in outcomes)
