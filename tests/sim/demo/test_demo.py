"""The demonstration's order of work on small models, without the simulators; the whole of it is ``scripts/demo``."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from flexcim_sim.demo import demo
from flexcim_sim.demo.demo import Options, run_demo, write_report
from flexcim_sim.demo.errors import DemoError
from flexcim_sim.demo.instances import FULL, FULL_DENSE, SMALL, SMALL_DENSE
from flexcim_sim.demo.report import RunReport, VectorReport
from flexcim_sim.demo.simulation import SimulationJob
from tests.support.demo_reports import made_up, run, vector
from tests.support.tiny_models import OTHER_TEXT, TEXT, save_tiny, tiny_llama, tiny_mamba2

pytestmark = pytest.mark.torch


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


def options(folder: Path, models: list[Path]) -> Options:
    """What a demonstration of some models is asked for."""
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    (folder / "heldout.txt").write_text(OTHER_TEXT, encoding="utf-8")
    return Options(
        models=models,
        calibration=folder / "text.txt",
        heldout=folder / "heldout.txt",
        output=folder / "out",
        sparsity=0.5,
        seed=4,
        layers=2,
        vectors=24,
        jobs=1,
    )


def test_the_demonstration_from_checkpoints_to_report(monkeypatch, tmp_path):
    threads = torch.get_num_threads()
    simulated = []

    def simulate(job: SimulationJob) -> RunReport:
        simulated.append((job.instance, job.sample.packed.name, len(job.sample.activations)))
        assert job.sample.activations.any()
        assert job.verilog is job.instance  # type: ignore[comparison-overlap]
        return run(350 if job.instance.preset == "dense" else 100)

    def record(model: str, job: SimulationJob) -> VectorReport:
        assert job.instance is SMALL
        return vector(model=model, layer=job.sample.packed.name)

    monkeypatch.setattr(demo, "workers", no_workers)
    monkeypatch.setattr(demo, "prepare", lambda instance, folder: instance)
    monkeypatch.setattr(demo, "simulate", simulate)
    monkeypatch.setattr(demo, "record_vector", record)
    models = [save_tiny(tmp_path / "llama", tiny_llama()), save_tiny(tmp_path / "mamba2", tiny_mamba2())]
    steps: list[int] = []
    done: list[str] = []
    try:
        report = run_demo(options(tmp_path, models), expect_steps=steps.append, done=done.append)
    finally:
        torch.set_num_threads(threads)

    assert steps == [8, 19]
    assert len(done) == 19
    assert [instance for instance, *_ in simulated] == [SMALL, SMALL_DENSE, *[FULL, FULL_DENSE] * 4]
    assert [count for *_, count in simulated] == [16] * 2 + [24] * 8
    assert [model.name for model in report.models] == ["llama", "mamba2"]
    for model in report.models:
        assert (model.default.label, model.published.method) == ("FLOW (default)", "paper")
        assert model.default.sparsity >= model.sparsity_target == 0.5
        assert (tmp_path / "out" / "packed" / model.name / "manifest.json").exists()
    assert [entry.simulator for entry in report.rtl] == ["verilator"] * 4 + ["icarus"]
    assert all(entry.speedup == 3.5 for entry in report.rtl)
    assert report.vector.layer == simulated[0][1]
    assert report.evaluated == len(OTHER_TEXT.encode())
    assert report.failures == ()


def test_models_of_one_name_are_refused_before_any_work(tmp_path):
    models = [tmp_path / "one" / "llama", tmp_path / "other" / "llama"]
    with pytest.raises(DemoError, match=r"two of the models are named 'llama': .*one/llama and .*other/llama$"):
        run_demo(options(tmp_path, models), expect_steps=lambda steps: None, done=print)
    assert not (tmp_path / "out").exists()


def test_the_report_is_a_page_and_its_numbers(tmp_path):
    folder = tmp_path / "new" / "demo"
    write_report(folder, made_up())
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(written) == {"report.json", "report.html"}
    assert written["report.html"].startswith(b"<!DOCTYPE html>")
    write_report(tmp_path / "again", made_up())
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == written


def test_a_report_that_cannot_be_written_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DemoError, match=r"file: cannot be written \(File exists\)"):
        write_report(tmp_path / "file", made_up())
