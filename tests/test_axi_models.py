"""The accelerator between bus models that this project did not write, under both simulators."""

from __future__ import annotations

import pytest

from hw.accelerator_verilog import generate_accelerator
from sim.bench.runner import run_tests
from sim.bench.simulators import SIMULATORS, build
from tests.accelerators import ACCELERATORS

CONFIG = ACCELERATORS["one bank, parallel"]
SEED = 33


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_the_models_of_cocotbext_axi_drive_the_accelerator(simulator, tmp_path):
    built = build(generate_accelerator(CONFIG), simulator)
    outcomes = run_tests(built, CONFIG, ("tests.axi_models_bench",), tmp_path, seed=SEED)
    assert [(outcome.name, outcome.message) for outcome in outcomes] == [("programs", ""), ("refusals", "")]
    assert all(outcome.results > 100 for outcome in outcomes)
