"""The bench on generated accelerators: through AXI and Wishbone, in both simulators."""

from __future__ import annotations

import functools

import pytest

from flexcim_hw.verilog.accelerator import generate_accelerator
from flexcim_sim.bench.run.verify import verify_accelerator
from flexcim_sim.build.simulators import SIMULATORS
from tests.support.accelerators import ACCELERATORS

pytestmark = pytest.mark.simulator

SEED = 30


@functools.cache
def design(name):
    """The Verilog of an instance, for both simulators."""
    return generate_accelerator(ACCELERATORS[name])


@pytest.mark.parametrize(
    ("name", "simulator"),
    [*(("one bank, parallel", simulator) for simulator in SIMULATORS), ("four macros, wide buses", "verilator")],
)
@pytest.mark.slow
def test_a_small_accelerator_keeps_the_contract(name, simulator, tmp_path):
    verification = verify_accelerator("small", ACCELERATORS[name], simulator, tmp_path, seed=SEED, verilog=design(name))
    assert not verification.failed, [f"{outcome.name}: {outcome.message}" for outcome in verification.failed]
    assert all(outcome.results for outcome in verification.outcomes if outcome.name != "registers")
    (programs,) = [outcome.covered for outcome in verification.outcomes if outcome.name == "programs"]
    place = list(verification.coverage.axes).index("stall")
    assert {cross[place] for cross in programs} == {"none"}, "nothing pauses in these programs"
    covered = {bins.bin: bins.hit for bins in verification.coverage.bins() if bins.axis == "source"}
    assert all(covered.values()), f"runs from the stream, stored and replayed were all seen: {covered}"
