"""The demonstration's parts on small and on made-up data; the whole of it is ``scripts/demo``."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from flexcim.cli import main
from flexcim.config.macro import MacroConfig, preset
from flexcim.config.pattern import Pattern
from flexcim.packed.cells import pack_layer
from flexcim.packed.folder import read_packed
from flexcim.packed.layer import PackedLayer
from flexcim.packed.tiling import tile_layer
from flexcim_sim.bench.run.layer import LayerRun
from flexcim_sim.build.simulators import SimulatorError
from flexcim_sim.demo import demo, simulation
from flexcim_sim.demo.demo import DemoError, Options, run_demo, write_report
from flexcim_sim.demo.instances import FULL, FULL_DENSE, SMALL, SMALL_DENSE, Instance, prepare
from flexcim_sim.demo.markdown import markdown
from flexcim_sim.demo.pruning import LayerSample, choose_layers, smallest_layer
from flexcim_sim.demo.report import LayerReport, ModelReport, Report, RtlReport, RunReport, short_name
from flexcim_sim.demo.simulation import SimulationJob, simulate
from tests.support.sparse_weights import random_weights
from tests.support.tiny_models import OTHER_TEXT, TEXT, save_tiny, tiny_llama, tiny_mamba2

PNG = b"\x89PNG\r\n"


def layer(name: str, shape: tuple[int, int] = (64, 64), pattern: str = "2:8") -> LayerReport:
    chosen = Pattern.parse(pattern)
    return LayerReport(
        name=name,
        outputs=shape[0],
        inputs=shape[1],
        n=chosen.n,
        m=chosen.m,
        why="a made-up reason",
        groups=1,
        tiles=3,
        sparsity=chosen.sparsity,
        cycles_model=100,
        cycles_dense_model=350,
    )


def run(cycles: int = 100, **changes) -> RunReport:
    good = RunReport(outputs_compared=4096, mismatches=0, cycles_rtl=cycles, cycles_model=cycles)
    return replace(good, **changes)


def made_up(sparse: RunReport | None = None, dense: RunReport | None = None) -> Report:
    """A report on two models, of which one layer was simulated."""
    layers = (layer("model.layers.0.mlp.up_proj"), layer("model.layers.1.mlp.up_proj", pattern="2:4"))
    first = ModelReport(
        name="llama",
        sparsity_target=0.6,
        sparsity=0.625,
        bpb_dense=1.5,
        bpb_pruned=1.75,
        bpb_int8=1.76,
        layers=layers,
    )
    entry = RtlReport(
        model="llama",
        layer="model.layers.0.mlp.up_proj",
        simulator="verilator",
        preset="flexcim",
        cells=FULL.cells,
        pattern="2:8",
        limit=4.0,
        vectors=64,
        sparse=sparse or run(100),
        dense=dense or run(350),
    )
    second = replace(first, name="mamba2", layers=layers[:1])
    return Report(seed=3, cells=FULL.cells, vectors=64, models=[first, second], rtl=[entry], seconds=12.34)


# -- the report --------------------------------------------------------------------------------------------------------


def test_the_json_has_what_is_promised():
    document = json.loads(made_up().to_json())
    (entry,) = document["rtl"]
    model = document["models"][0]
    assert {"name", "sparsity_target", "sparsity", "bpb_dense", "bpb_pruned", "bpb_int8", "layers"} <= set(model)
    assert {"name", "n", "m", "groups", "tiles"} <= set(model["layers"][0])
    promised = {
        "model": "llama",
        "layer": "model.layers.0.mlp.up_proj",
        "simulator": "verilator",
        "preset": "flexcim",
        "outputs_compared": 4096,
        "mismatches": 0,
        "cycles_rtl": 100,
        "cycles_model": 100,
        "cycles_dense_rtl": 350,
        "speedup": 3.5,
        "speedup_limit": 4.0,
    }
    assert promised.items() <= entry.items()
    assert document["seconds"] == 12.3
    assert document["failures"] == []


def test_the_report_is_written_with_its_figures(tmp_path):
    folder = tmp_path / "new" / "demo"
    write_report(folder, made_up())
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(written) == {"report.json", "report.md", "density.png", "cycles.png"}
    assert all(content.startswith(PNG) for name, content in written.items() if name.endswith(".png"))
    text = written["report.md"].decode()
    links = re.findall(r"\]\((.*?)\)", text)
    assert sorted(links) == ["cycles.png", "density.png"]
    assert "All is well" in text
    assert "**RTL of flexcim 4x32x32 in verilator, 64 vectors**" in text
    assert "| llama | 0.up_proj | 2:8 | 8192 | 0 | 100 | 100 | 350 | 3.50 | 4.00 |" in text
    assert "| 1.up_proj | 64x64 | 2:4 | 1 | 3 | 50.0% | 100 | 350 | 3.50 | 2.00 |" in text
    write_report(tmp_path / "again", made_up())
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == written


def test_a_report_that_cannot_be_written_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DemoError, match=r"file: cannot be written \(File exists\)"):
        write_report(tmp_path / "file", made_up())


def test_only_the_runs_that_the_cycles_are_for_count_as_measured():
    report = made_up()
    first, second = report.models
    assert report.measured(first, first.layers[0]) is report.rtl[0]
    assert report.measured(first, first.layers[1]) is None
    assert report.measured(second, second.layers[0]) is None
    for other in ({"vectors": 16}, {"cells": SMALL.cells}):
        changed = replace(report, rtl=[replace(report.rtl[0], **other)])
        assert changed.measured(first, first.layers[0]) is None


WRONG = [
    (
        {"sparse": run(mismatches=7)},
        "llama, model.layers.0.mlp.up_proj in verilator on flexcim 4x32x32: "
        "7 of 4096 outputs differ from the golden ones",
    ),
    ({"dense": run(350, mismatches=1)}, "on dense 4x32x32: 1 of 4096 outputs differ from the golden ones"),
    ({"sparse": run(cycles_rtl=101)}, "on flexcim 4x32x32: 101 cycles in the RTL, but 100 by the cycle model"),
    ({"dense": run(350, cycles_rtl=349)}, "on dense 4x32x32: 349 cycles in the RTL, but 350 by the cycle model"),
    ({"sparse": run(outputs_compared=0)}, "on flexcim 4x32x32: 0 of 0 outputs differ from the golden ones"),
    ({"dense": run(message="the macro stands still")}, "on dense 4x32x32: the macro stands still"),
]


@pytest.mark.parametrize(("wrong", "sentence"), WRONG)
def test_whatever_is_wrong_is_named(wrong, sentence):
    report = made_up(**wrong)
    assert [failure for failure in report.failures if failure.endswith(sentence)] == [*report.failures]
    assert json.loads(report.to_json())["failures"] == [*report.failures]
    text = markdown(report)
    assert "All is well" not in text
    assert sentence in text


def test_a_run_without_results_has_no_speed_up():
    assert made_up(sparse=run(0)).rtl[0].speedup == 0


@pytest.mark.parametrize(
    ("path", "short"),
    [
        ("model.layers.0.mlp.down_proj", "0.down_proj"),
        ("backbone.layers.12.mixer.in_proj", "12.in_proj"),
        ("transformer.h.3.experts.1.up", "3.up"),
        ("head", "head"),
    ],
)
def test_short_names(path, short):
    assert short_name(path) == short


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Calls ``flexcim demo`` with a stand-in for the work; gives exit code, output and errors."""

    def call(report: Report, *arguments: str) -> tuple[int, str, str, Options]:
        seen = []

        def stand_in(options, *, expect_steps, done):
            seen.append(options)
            expect_steps(2)
            done("the first step")
            return report

        monkeypatch.setattr(demo, "run_demo", stand_in)
        monkeypatch.setenv("COLUMNS", "160")  # a narrow terminal would cut the tables
        code = main(["demo", "--output", str(tmp_path / "out"), *arguments])
        return (code, *capsys.readouterr(), seen[0])

    return call


def test_the_command_prints_and_writes_the_report(command, tmp_path):
    code, out, err, options = command(made_up(), "--seed", "3", "--sparsity", "0.5", "--jobs", "5", "--layers", "9")
    assert code == 0
    assert (options.seed, options.sparsity, options.jobs, options.layers) == (3, 0.5, 5, 9)
    assert [model.name for model in options.models] == ["llama-kjv", "mamba2-kjv"]
    assert all(path.exists() for path in (*options.models, options.calibration, options.heldout))
    assert out.startswith("seed 3\n")
    assert "1.up_proj" in out
    assert "3.50" in out
    assert "the first step" in err
    assert [line for line in out.splitlines() if line != line.rstrip()] == []
    assert (tmp_path / "out" / "report.md").exists()


@pytest.mark.parametrize(("wrong", "sentence"), [WRONG[0], WRONG[3]])
def test_the_command_fails_if_anything_is_wrong(command, tmp_path, wrong, sentence):
    code, _, err, _ = command(made_up(**wrong))
    assert code == 1
    assert sentence in err
    assert sentence in (tmp_path / "out" / "report.md").read_text()


def test_the_command_refuses_bad_input(monkeypatch, capsys, tmp_path):
    assert main(["demo", "--sparsity", "1.5"]) == 2
    (tmp_path / "file").write_text("")
    capsys.readouterr()
    assert main(["demo", "--output", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err == f"flexcim: {tmp_path / 'file'}: cannot be written (File exists)\n"
    (tmp_path / "report.md").mkdir()
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"flexcim: {tmp_path / 'report.md'}: cannot be written (Is a directory)\n"
    assert main(["demo", "--output", ""]) == 2
    assert "a folder must have a name, not ''" in capsys.readouterr().err
    monkeypatch.setattr("flexcim_sim.cli.demo._MODELS", tmp_path / "nowhere")
    assert main(["demo"]) == 2
    assert "needs the repository's models" in capsys.readouterr().err


# -- choosing layers ---------------------------------------------------------------------------------------------------


def test_the_chosen_layers_differ_as_much_as_possible():
    layers = [
        layer("a", (64, 64), "2:8"),
        layer("b", (128, 64), "2:8"),
        layer("c", (128, 64), "2:4"),
        layer("d", (64, 64), "2:4"),
        layer("e", (128, 64), "2:4"),
    ]
    assert [chosen.name for chosen in choose_layers(layers, 4)] == ["b", "d", "c", "a"]
    assert {chosen.name for chosen in choose_layers(layers, 9)} == set("abcde")
    assert choose_layers(layers, 1)[0].name == "b"


def test_the_smallest_layer_is_a_sparse_one_if_possible():
    layers = [layer("a", (8, 8), "1:1"), layer("b", (8, 8), "2:4"), layer("c", (9, 8), "2:4")]
    assert smallest_layer(layers).name == "b"
    assert smallest_layer(layers[::2]).name == "a"


# -- simulation --------------------------------------------------------------------------------------------------------

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
    def stand_in(verilog, tiling, weights, offsets, activations, folder, *, simulator):
        product = activations.astype(np.int32) @ sample.weights.T.astype(np.int32)
        product[3, 4] += 1
        return LayerRun(product, product.size, 0, cycles=50, predicted=50, seconds=0.1)

    monkeypatch.setattr(simulation, "run_layer", stand_in)
    job = SimulationJob(sample=sample, instance=SPARSE, verilog=None, folder=tmp_path)  # type: ignore[arg-type]
    assert simulate(job).failures == ("1 of 63 outputs differ from the product with the pruned weights",)


def test_a_dense_macro_gets_the_same_weights(sample, tmp_path, monkeypatch):
    def stand_in(verilog, tiling, weights, offsets, activations, folder, *, simulator):
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


# -- all of it, without the simulators ---------------------------------------------------------------------------------


@contextmanager
def no_workers(count, done):
    """In place of processes: jobs are done here and now."""

    def run_here(jobs):
        results = []
        for text, function, arguments in jobs:
            results.append(function(*arguments))
            done(text)
        return results

    yield SimpleNamespace(run=run_here)


def test_the_demonstration_from_checkpoints_to_report(monkeypatch, tmp_path):
    threads = torch.get_num_threads()
    simulated = []

    def stand_in(job: SimulationJob) -> RunReport:
        simulated.append((job.instance, job.sample.packed.name, len(job.sample.activations)))
        assert job.sample.activations.any()
        assert job.verilog is job.instance  # type: ignore[comparison-overlap]
        return run(350 if job.instance.preset == "dense" else 100)

    monkeypatch.setattr(demo, "workers", no_workers)
    monkeypatch.setattr(demo, "prepare", lambda instance, folder: instance)
    monkeypatch.setattr(demo, "simulate", stand_in)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "heldout.txt").write_text(OTHER_TEXT, encoding="utf-8")
    options = Options(
        models=[save_tiny(tmp_path / "llama", tiny_llama()), save_tiny(tmp_path / "mamba2", tiny_mamba2())],
        calibration=tmp_path / "text.txt",
        heldout=tmp_path / "heldout.txt",
        output=tmp_path / "out",
        sparsity=0.5,
        seed=4,
        layers=2,
        vectors=24,
        jobs=1,
    )
    steps: list[int] = []
    done: list[str] = []
    try:
        report = run_demo(options, expect_steps=steps.append, done=done.append)
    finally:
        torch.set_num_threads(threads)

    assert steps == [6, 16]
    assert len(done) == 16
    assert [instance for instance, *_ in simulated] == [SMALL, SMALL_DENSE, *[FULL, FULL_DENSE] * 4]
    assert [count for *_, count in simulated] == [16] * 2 + [24] * 8
    assert [model.name for model in report.models] == ["llama", "mamba2"]
    for model in report.models:
        assert model.sparsity >= model.sparsity_target == 0.5
        assert 0 < model.bpb_dense < 10
        packed = read_packed(Path(tmp_path / "out" / "packed" / model.name))
        assert list(packed.tilings) == [entry.name for entry in model.layers]
        for entry in model.layers:
            tiling = packed.tilings[entry.name]
            assert (Pattern(entry.n, entry.m), entry.groups) == (tiling.pattern, tiling.groups)
            assert entry.tiles == len(tiling.tiles)
            assert entry.cycles_model > 0
            assert entry.sparsity >= 1 - entry.n / entry.m - 0.1
    assert [entry.simulator for entry in report.rtl] == ["verilator"] * 4 + ["icarus"]
    assert all(entry.speedup == 3.5 for entry in report.rtl)
    assert report.failures == ()
