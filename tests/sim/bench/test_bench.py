"""The bench on generated Verilog: small instances of every kind in both simulators, the default one at full size."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from flexcim.config.macro import PRESETS, MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.packed.cells import pack_layer
from flexcim.packed.tiling import tile_layer
from flexcim_hw.verilog.macro import generate
from flexcim_sim.bench.run.layer import run_layer
from flexcim_sim.bench.run.verify import verify_macro
from flexcim_sim.build.simulators import SIMULATORS, SimulatorError, check_tools, tool_environment
from tests.support.sparse_weights import random_weights

pytestmark = pytest.mark.simulator

SEED = 20
SMALL = {"rows": 4, "columns": 4}
ODD_PATTERNS = ["1:1", "2:3", "4:5", "2:4", "4:8", "4:11", "1:4"]

VARIANTS: dict[str, dict[str, Any]] = {
    "requantizer": SMALL
    | {  # results and constants take several beats
        "requantizer": True,
        "result_port": 3,
        "banks": 3,
        "bits_per_cycle": 2,
        "activation_bits": 6,
        "weight_bits": 5,
    },
    "odd-ports": {  # that neither windows, rows nor outputs divide; several weight beats to a sub-macro's row
        "rows": 5,
        "columns": 6,
        "activation_port": 7,
        "result_port": 5,
        "weight_port": 2,
        "banks": 1,
        "patterns": ODD_PATTERNS,
    },
    "one-cell": {
        "sub_macros": 1,
        "rows": 1,
        "columns": 1,
        "patterns": ["1:1", "1:4"],
        "activation_port": 1,
        "result_port": 1,
        "accumulator_depth": 1,
    },
    "eight-sub-macros": {  # weights come for two of them at once
        "sub_macros": 8,
        "rows": 2,
        "columns": 3,
        "weight_port": 6,
        "result_port": 7,
        "patterns": ["1:1", "8:9", "4:8", "2:7"],
    },
}
for _bits, _lanes in ((1, 8), (2, 3), (4, 2), (8, 1)):
    VARIANTS[f"bits-{_bits}-lanes-{_lanes}"] = SMALL | {
        "bits_per_cycle": _bits,
        "lanes": _lanes,
        "patterns": ODD_PATTERNS,
    }

INSTANCES = {name: MacroConfig.from_mapping(SMALL, base=base) for name, base in PRESETS.items()}
INSTANCES |= {name: MacroConfig.from_mapping(values) for name, values in VARIANTS.items()}


@functools.cache
def design(name):
    """The Verilog of an instance, for both simulators."""
    return generate(INSTANCES[name])


def explain(verification):
    return [f"{outcome.name}: {outcome.message}" for outcome in verification.failed] + [f"see {verification.folder}"]


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("name", INSTANCES)
@pytest.mark.slow
def test_a_small_instance_keeps_the_contract(name, simulator, tmp_path):
    verification = verify_macro(name, INSTANCES[name], simulator, tmp_path, seed=SEED, verilog=design(name))
    assert not verification.failed, explain(verification)
    assert all(outcome.results for outcome in verification.outcomes), "each test compares something"


@pytest.mark.slow
def test_the_default_instance_keeps_the_contract_at_full_size(tmp_path):
    verification = verify_macro("flexcim", PRESETS["flexcim"], "verilator", tmp_path, seed=SEED)
    assert not verification.failed, explain(verification)


# --- A layer ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_a_layer_runs_tile_by_tile(simulator, tmp_path):
    rng = np.random.default_rng(3)
    config, pattern = INSTANCES["flexcim"], Pattern(2, 4)
    tiling = tile_layer(config, 10, 75, pattern, groups=2)
    assert tiling.k_tiles > 1
    assert tiling.output_tiles > 1
    weights = random_weights(rng, 10, 75, pattern)
    activations = rng.integers(-128, 128, (40, 75)).astype(np.int8)
    packed = pack_layer(tiling, weights)
    run = run_layer(design("flexcim"), tiling, *packed, activations, tmp_path, simulator=simulator)
    assert (run.outputs == activations.astype(np.int32) @ weights.T.astype(np.int32)).all()
    assert (run.compared, run.mismatches) == (400, 0)
    assert run.cycles == run.predicted


# --- What goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.slow
def test_a_wrong_design_fails_with_waves(simulator, tmp_path):
    """The models say 2:4 where the design has 4:8."""
    config = MacroConfig.from_mapping(SMALL | {"patterns": ["2:4"]})
    verilog = generate(MacroConfig.from_mapping(SMALL | {"patterns": ["4:8"]}))
    verification = verify_macro("wrong", config, simulator, tmp_path, seed=SEED, verilog=verilog)
    assert len(verification.failed) > 5
    assert verification.waves is not None
    assert verification.waves.stat().st_size > 1000
    assert "must be" in verification.failed[0].message


@pytest.mark.parametrize(("simulator", "tool"), [("verilator", "g\\+\\+"), ("icarus", "iverilog")])
def test_a_missing_simulator_is_told_in_a_sentence(simulator, tool, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    if simulator == "verilator":
        monkeypatch.setattr("shutil.which", lambda name, path: None if name == "g++" else name)
    with pytest.raises(SimulatorError, match=f"{simulator} needs the program '{tool}'.*install it, for example with"):
        check_tools(simulator)


def test_builds_find_this_python_where_the_system_calls_it_otherwise(tmp_path, monkeypatch):
    make = shutil.which("make")
    assert make is not None
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "Makefile").write_text("PYTHON3 = python\nall:\n\t@$(PYTHON3) -c 'import sys; print(sys.prefix)'\n")
    run = subprocess.run([make, "-s"], cwd=tmp_path, env=tool_environment(), capture_output=True, text=True, check=True)
    assert run.stdout == f"{sys.prefix}\n"


def test_an_unknown_simulator_is_refused():
    with pytest.raises(SimulatorError, match="unknown simulator 'modelsim'; known are verilator, icarus"):
        check_tools("modelsim")
