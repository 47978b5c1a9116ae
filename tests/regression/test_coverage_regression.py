"""The functional coverage brought to its end: every legal cross is hit, in each simulator, at each number of bits."""

from __future__ import annotations

import pytest

from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import MacroConfig
from flexcim_sim.bench.run.verify import verify_accelerator, verify_macro
from flexcim_sim.build.simulators import SIMULATORS

pytestmark = pytest.mark.regression

BITS_PER_CYCLE = (1, 2, 4, 8)
SMALL = {"rows": 4, "columns": 4, "patterns": ["1:1", "4:5", "2:4", "1:4"]}
TWO_SUB_MACROS = {"sub_macros": 2, "rows": 4, "columns": 4, "patterns": ["1:1", "2:4"], "result_port": 3}


def not_hit(verification):
    """What failed, and what the coverage lacks."""
    failed = [f"{outcome.name}: {outcome.message} ({verification.folder})" for outcome in verification.failed]
    return failed + list(map(str, verification.coverage.missing))


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("bits", BITS_PER_CYCLE)
def test_every_legal_cross_of_a_macro_is_hit(bits, simulator, tmp_path):
    # Every other instance has the requantizer, whose constants are one stream more that can pause.
    config = MacroConfig.from_mapping(SMALL | {"bits_per_cycle": bits, "requantizer": bits in (2, 8)})
    assert not not_hit(verify_macro("coverage", config, simulator, tmp_path, seed=bits, full_coverage=True))


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("bits", BITS_PER_CYCLE)
def test_every_legal_cross_of_an_accelerator_is_hit(bits, simulator, tmp_path):
    # Buses narrower and wider than the beats, one macro and two, both register buses.
    config = AcceleratorConfig(
        macro=MacroConfig.from_mapping(TWO_SUB_MACROS | {"bits_per_cycle": bits}),
        macros=1 if bits == 4 else 2,
        weight_bus=64 if bits < 4 else 512,
        activation_bus=128 if bits < 4 else 512,
        result_bus=32 if bits < 4 else 512,
        activation_memory=64,
        program_depth=64,
        register_bus="wishbone" if bits == 2 else "axi4-lite",
    )
    assert not not_hit(verify_accelerator("coverage", config, simulator, tmp_path, seed=bits, full_coverage=True))
