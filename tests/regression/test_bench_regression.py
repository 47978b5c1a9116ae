"""The bench where the quick tests have no time: every width of slices and lanes, and every preset at full size."""

from __future__ import annotations

import itertools

import pytest

from flexcim.config.macro import PRESETS, MacroConfig
from flexcim_sim.bench.run.verify import verify_macro
from flexcim_sim.build.simulators import SIMULATORS

pytestmark = pytest.mark.regression

SMALL = {"rows": 4, "columns": 4}
PATTERNS = ["1:1", "2:3", "4:5", "2:4", "4:8", "4:11", "1:4", "2:9"]
SEEDS = range(3)


def failures(verification):
    return [f"{outcome.name}: {outcome.message} ({verification.folder})" for outcome in verification.failed]


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize(("bits", "lanes"), list(itertools.product([1, 2, 4, 8], [1, 2, 3, 8])))
def test_every_width_of_slices_and_lanes(bits, lanes, simulator, tmp_path):
    config = MacroConfig.from_mapping(
        SMALL | {"bits_per_cycle": bits, "lanes": lanes, "patterns": PATTERNS, "requantizer": bits == 4}
    )
    for seed in SEEDS:
        assert not failures(verify_macro("width", config, simulator, tmp_path, seed=seed))


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("name", PRESETS)
def test_without_initial_values(name, simulator, tmp_path):
    config = MacroConfig.from_mapping(SMALL, base=PRESETS[name])
    assert not failures(verify_macro(name, config, simulator, tmp_path, seed=1, init=False))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_at_full_size(name, tmp_path):
    for seed in SEEDS:
        assert not failures(verify_macro(name, PRESETS[name], "verilator", tmp_path, seed=seed))


@pytest.mark.parametrize(
    "changes",
    [
        {"bits_per_cycle": 8},
        {"requantizer": True},
        {"sub_macros": 8, "rows": 16, "weight_port": 256, "result_port": 64},
        {"banks": 1, "activation_port": 16, "weight_port": 4, "result_port": 1},
    ],
    ids=str,
)
def test_variants_of_the_default_instance_at_full_size(changes, tmp_path):
    config = MacroConfig.from_mapping(changes)
    for seed in SEEDS:
        assert not failures(verify_macro("variant", config, "verilator", tmp_path, seed=seed))


def test_the_board_under_icarus(tmp_path):
    assert not failures(verify_macro("board", PRESETS["board"], "icarus", tmp_path, seed=1))
