"""Layers on simulated macros, and one vector whose way through a macro is recorded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flexcim.config.macro import MacroConfig, preset
from flexcim.config.pattern import Pattern
from flexcim.macro.cycles import PIPELINE_CYCLES
from flexcim.packed.cells import pack_layer
from flexcim.packed.layer import PackedLayer
from flexcim.packed.tiling import tile_layer
from flexcim_sim.bench.run.layer import LayerRun
from flexcim_sim.build.simulators import SimulatorError
from flexcim_sim.demo import simulation
from flexcim_sim.demo.instances import FULL, FULL_DENSE, SMALL, SMALL_DENSE, Instance, prepare
from flexcim_sim.demo.pruning import LayerSample
from flexcim_sim.demo.report import RunReport
from flexcim_sim.demo.simulation import SimulationJob, simulate
from flexcim_sim.demo.vector import first_tile, record_vector
from flexcim_sim.demo.waveform import STREAMS, offers
from tests.support.demo_reports import trace
from tests.support.sparse_weights import random_weights

TINY: dict[str, Any] = {
    "sub_macros": 2,
    "rows": 2,
    "columns": 2,
    "activation_port": 8,
    "result_port": 2,
    "accumulator_depth": 8,
}
SPARSE = Instance("flexcim", MacroConfig.from_mapping(TINY | {"patterns": ["1:1", "2:4"]}), "icarus")
DENSE = Instance("dense", MacroConfig.from_mapping(TINY, preset("dense")), "icarus")


@pytest.fixture
def sample() -> LayerSample:
    """A layer of several tiles both ways, with remainders."""
    rng = np.random.default_rng(1)
    weights = random_weights(rng, 7, 22, Pattern(2, 4))
    tiling = tile_layer(SPARSE.config, 7, 22, Pattern(2, 4))
    cells, offsets = pack_layer(tiling, weights)
    packed = PackedLayer(
        name="layer",
        tiling=tiling,
        activation_scale=None,
        weight_scales=np.ones(7, np.float32),
        weights=cells,
        offsets=offsets,
    )
    return LayerSample(packed=packed, weights=weights, activations=rng.integers(-127, 128, (9, 22)).astype(np.int8))


def test_the_instances_are_comparable():
    assert (FULL.config, FULL_DENSE.config) == (preset("flexcim"), preset("dense"))
    assert (FULL.cells, SMALL.cells) == (FULL_DENSE.cells, SMALL_DENSE.cells) == ("4x32x32", "4x4x4")
    assert SMALL.config.patterns == FULL.config.patterns
    assert len({instance.label for instance in (FULL, FULL_DENSE, SMALL, SMALL_DENSE)}) == 4


def test_a_layer_runs_on_a_macro(sample, tmp_path):
    verilog = prepare(SPARSE, tmp_path / "rtl")
    assert (tmp_path / "rtl" / "flexcim-2x2x2" / "flexcim_macro.v").read_text() == verilog.text
    found = simulate(SimulationJob(sample=sample, instance=SPARSE, verilog=verilog, folder=tmp_path / "run"))
    assert found.failures == ()
    assert found.outputs_compared == 9 * 7
    assert found.cycles_rtl == found.cycles_model > 0


def test_outputs_are_compared_with_the_plain_product_too(sample, tmp_path, monkeypatch):
    def stand_in(verilog, tiling, weights, offsets, activations, folder, *, simulator, traced):
        product = activations.astype(np.int32) @ sample.weights.T.astype(np.int32)
        product[3, 4] += 1
        return LayerRun(product, product.size, 0, cycles=50, predicted=50, seconds=0.1)

    monkeypatch.setattr(simulation, "run_layer", stand_in)
    job = SimulationJob(sample=sample, instance=SPARSE, verilog=None, folder=tmp_path)  # type: ignore[arg-type]
    assert simulate(job).failures == ("1 of 63 outputs differ from the product with the pruned weights",)


def test_a_dense_macro_gets_the_same_weights(sample, tmp_path, monkeypatch):
    def stand_in(verilog, tiling, weights, offsets, activations, folder, *, simulator, traced):
        assert (tiling.config, tiling.pattern, simulator) == (DENSE.config, Pattern(1, 1), "icarus")
        assert not offsets.any()
        product = activations.astype(np.int32) @ sample.weights.T.astype(np.int32)
        return LayerRun(product, product.size, 0, cycles=50, predicted=50, seconds=0.1)

    monkeypatch.setattr(simulation, "run_layer", stand_in)
    job = SimulationJob(sample=sample, instance=DENSE, verilog=None, folder=tmp_path)  # type: ignore[arg-type]
    assert simulate(job) == RunReport(outputs_compared=63, mismatches=0, cycles_rtl=50, cycles_model=50)


def test_a_macro_that_stands_still_is_a_finding(sample, tmp_path, monkeypatch):
    def stand_in(*arguments, **keywords):
        raise SimulatorError("the macro stands still")

    monkeypatch.setattr(simulation, "run_layer", stand_in)
    job = SimulationJob(sample=sample, instance=SPARSE, verilog=None, folder=tmp_path)  # type: ignore[arg-type]
    assert simulate(job).failures[-1] == "the macro stands still"


# -- one vector --------------------------------------------------------------------------------------------------------


def test_the_first_tile_of_a_layer_is_a_layer_of_one_tile(sample):
    part, tiling = first_tile(sample, SPARSE.config)
    assert len(tiling.tiles) == 1
    assert len(tile_layer(SPARSE.config, 7, 22, Pattern(2, 4)).tiles) > 1
    assert part.weights.shape == (tiling.outputs, tiling.inputs)
    assert (part.weights == sample.weights[: tiling.outputs, : tiling.inputs]).all()
    assert (part.activations == sample.activations[:1, : tiling.inputs]).all()


def test_the_way_of_a_vector_is_recorded_at_the_pins(sample, tmp_path):
    verilog = prepare(SPARSE, tmp_path / "rtl")
    job = SimulationJob(sample=sample, instance=SPARSE, verilog=verilog, folder=tmp_path / "run")
    found = record_vector("model", job)
    assert (found.model, found.layer, found.pattern, found.cells) == ("model", "layer", "2:4", "2x2x2")
    assert found.failures == ()
    part, tiling = first_tile(sample, SPARSE.config)
    assert found.inputs == part.activations[0].tolist()
    assert found.results == (part.activations.astype(np.int32) @ part.weights.T.astype(np.int32))[0].tolist()

    beats = {name: found.traces[name].beats for name in STREAMS}
    phases = {phase.name: phase for phase in found.phases}
    config = SPARSE.config
    assert min(beats["load"] + beats["run"]) == 0
    assert len(beats["weights"]) == config.weight_beats(tiling.tiles[0].rows)
    assert len(beats["results"]) == config.result_beats(tiling.groups)
    assert phases["slices"].cycles == config.issue_cycles(Pattern(2, 4))
    assert phases["latency"].cycles == PIPELINE_CYCLES - 1, "the last of them shows the result"
    assert phases["results"].last - beats["weights"][0] + 1 == found.run.cycles_model
    assert [phase.first for phase in found.phases] == sorted(phase.first for phase in found.phases)
    # What was on the pins is what the vector is.
    bits = found.traces["results"].payload[beats["results"][0]]
    lowest = int(bits, 2) & 0xFFFFFFFF
    assert lowest - (lowest >> 31 << 32) == found.results[0]


def test_a_vector_that_does_not_pass_is_a_finding(sample, tmp_path, monkeypatch):
    def stand_in(*arguments, **keywords):
        raise SimulatorError("the macro stands still")

    monkeypatch.setattr(simulation, "run_layer", stand_in)
    job = SimulationJob(sample=sample, instance=SPARSE, verilog=None, folder=tmp_path)  # type: ignore[arg-type]
    found = record_vector("model", job)
    assert (found.results, found.traces, found.phases) == ([], {}, ())
    assert found.failures[-1].endswith("the macro stands still")


def test_a_beat_is_offered_until_it_moves():
    assert list(offers(trace("0110111", "1010011", "x" * 7))) == [(1, 2), (4, 5), (6, 6)]
