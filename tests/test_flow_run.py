"""Runs from disk to disk: one block in memory, killed and resumed, refused and out of space."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from flow import checkpoint, choosing
from flow.export import ExportError, write_result
from flow.journal import JournalError
from flow.options import Method, Update
from flow.pruner import prune
from flow.quiet import quiet
from flow.run import DeviceError, prune_to
from flow.selectors import SelectionError
from flow.weights import Weights
from tests.model_families import tiny_family, tiny_inputs
from tests.tiny_models import OTHER_TEXT, TEXT, save_tiny, tiny_llama

ROOT = Path(__file__).resolve().parents[1]
OPTIONS: dict[str, Any] = {
    "sparsity": 0.5,
    "samples": 3,
    "length": 24,
    "method": Method.PAPER,
    "update": Update.LSQ,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT[:1500], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A text that is none of the calibration's."""
    path = tmp_path_factory.mktemp("text") / "other.txt"
    path.write_text(OTHER_TEXT[:500], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"), tiny_llama())


def contents(folder) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("method", [Method.PAPER, Method.FLOW])
def test_a_run_from_disk_to_disk_gives_the_same_bytes_as_one_in_memory(method, folder, text, other, tmp_path):
    options = OPTIONS | {"method": method, "calibration_text": text, "evaluation_text": other}
    write_result(tmp_path / "whole", prune(folder, **options))
    result = prune_to(tmp_path / "streamed", folder, device="cpu", **options)
    assert contents(tmp_path / "whole") == contents(tmp_path / "streamed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["streamed", "whole"]
    # The result still finds its weights, at their last place.
    assert result.layers[0].integers()[0].shape == (24, 24)
    assert result.activations([result.layers[0].name], 5)[result.layers[0].name].shape == (5, 24)


@pytest.mark.parametrize("family", ["mixtral", "vit"])
def test_one_block_at_a_time_is_in_memory(family, text, tmp_path, monkeypatch):
    loaded: set[str] = set()
    most = []
    load, release = Weights.load, Weights.release

    def loading(self, block):
        load(self, block)
        loaded.add(block.name)
        most.append(len(loaded))
        present = {
            name
            for name, parameter in self._model.named_parameters()
            if ".layers." in name and not parameter.is_meta and not name.startswith(f"{block.name}.")
        }
        assert not present

    def releasing(self, block):
        release(self, block)
        loaded.remove(block.name)

    monkeypatch.setattr(Weights, "load", loading)
    monkeypatch.setattr(Weights, "release", releasing)
    calibration = text
    with quiet():
        model = tiny_family(family)
        folder = save_tiny(tmp_path / "model", model)
        if family == "vit":
            calibration = tmp_path / "images.safetensors"
            save_file({"pixel_values": tiny_inputs(model)}, calibration)
    prune_to(tmp_path / "out", folder, calibration_text=calibration, **OPTIONS)
    assert not loaded
    assert set(most) == {1}


# -- kills -------------------------------------------------------------------------------------------------------------

# Imports once, then forks a run after the other. Each is killed with SIGKILL: before or after a rename that it counts
# up to, or by the clock; the last one goes through.
VICTIMS = """
import os, random, signal, sys, time
from pathlib import Path
from typing import Any
import torch
torch.set_num_threads(1)
import flow.checkpoint
from flow.options import Method, Update
from flow.run import prune_to

output, model, text, other, method, seed, single = sys.argv[1:]
flow.checkpoint._SINGLE_FILE_BYTES = int(single)
chance = random.Random(int(seed))

def run(die_at, after):
    count = 0
    def counted(rename):
        def call(*arguments, **keywords):
            nonlocal count
            count += 1
            if count == die_at and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(*arguments, **keywords)
            if count == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return call
    os.replace, os.rename = counted(os.replace), counted(os.rename)
    options = dict(sparsity=0.5, samples=3, length=24, method=Method(method), update=Update.LSQ, device="cpu")
    prune_to(output, model, calibration_text=text, evaluation_text=other, **options)

killed = 0
for attempt in range(30):
    by_clock = attempt % 4 == 3
    die_at, after = chance.randint(3, 8), chance.random() < 0.5
    child = os.fork()
    if not child:
        try:
            run(0 if by_clock or attempt == 29 else die_at, after)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if by_clock:
        time.sleep(chance.uniform(0.0, 1.0))
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            pass
    status = os.waitpid(child, 0)[1]
    for half in Path(output).parent.glob("*.partial/**/*"):
        if half.suffix == ".safetensors" and not any(part.startswith(".") for part in half.parts):
            from safetensors import safe_open
            with safe_open(half, "pt") as file:
                assert file.keys()
    if os.WIFSIGNALED(status):
        killed += 1
        continue
    if os.WEXITSTATUS(status) == 0:
        break
    sys.exit(1)
print(killed)
"""


@pytest.mark.parametrize(
    ("seed", "single", "method"), [(1, 1 << 30, Method.PAPER), (2, 0, Method.FLOW)], ids=["one file", "shards"]
)
def test_a_run_that_is_killed_at_any_point_gives_the_same_bytes_in_the_end(
    seed, single, method, folder, text, other, tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoint, "_SINGLE_FILE_BYTES", single)
    expected = tmp_path / "expected"
    options = OPTIONS | {"method": method, "calibration_text": text, "evaluation_text": other, "device": "cpu"}
    prune_to(expected, folder, **options)
    output = tmp_path / "place" / "out"
    output.parent.mkdir()
    if seed == 2:
        # An earlier result, of other options, that is to be replaced.
        prune_to(output, folder, **options | {"sparsity": 0.25, "samples": 2, "length": 16})
    words = [sys.executable, "-c", VICTIMS]
    words += map(str, (output, folder, text, other, method.value, seed, single))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) >= 3
    # A process that is killed between the last rename and the end leaves its work folder, which the next one clears.
    prune_to(output, folder, **options)
    assert sorted(path.name for path in output.parent.iterdir()) == ["out"]
    assert contents(output) == contents(expected)


def test_a_resumed_run_does_not_repeat_what_is_finished(folder, text, tmp_path):
    partial = tmp_path / "out.partial"
    steps: list[str] = []

    def interrupt(name: str, done: int, total: int) -> None:
        steps.append(name)
        if name.startswith("pruning block 3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune_to(tmp_path / "out", folder, calibration_text=text, **OPTIONS, progress=interrupt)
    assert not (tmp_path / "out").exists()
    shards = sorted((partial / "result" / "checkpoint").iterdir())
    assert [path.name for path in shards] == [f"model-0000{index}-of-00004.safetensors" for index in (1, 2)]
    assert (load_file(shards[0])["model.layers.0.mlp.up_proj.weight"] == 0).any()
    times = [path.stat().st_mtime_ns for path in shards]
    with pytest.raises(KeyboardInterrupt):
        prune_to(tmp_path / "out", folder, calibration_text=text, **OPTIONS, progress=interrupt)
    assert [path.stat().st_mtime_ns for path in shards] == times
    prune_to(tmp_path / "out", folder, calibration_text=text, **OPTIONS)
    assert not partial.exists()


# -- refusals ----------------------------------------------------------------------------------------------------------


def interrupted(tmp_path, folder, text):
    """Leave an unfinished run behind."""

    def interrupt(name: str, done: int, total: int) -> None:
        if name.startswith("pruning block 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune_to(tmp_path / "out", folder, calibration_text=text, **OPTIONS, progress=interrupt)


def test_another_run_does_not_mix_with_an_unfinished_one(folder, text, tmp_path):
    interrupted(tmp_path, folder, text)
    other = OPTIONS | {"sparsity": 0.6}
    with pytest.raises(
        JournalError,
        match=r"out\.partial: holds an unfinished run with sparsity 0\.5, not 0\.6; run that command again to",
    ):
        prune_to(tmp_path / "out", folder, calibration_text=text, **other)
    changed = tmp_path / "changed.txt"
    changed.write_text(TEXT)
    with pytest.raises(JournalError, match=r"holds an unfinished run with calibration \"\w+ \.\.\., not \"\w+ \.\.\.;"):
        prune_to(tmp_path / "out", folder, calibration_text=changed, **OPTIONS)


def test_a_work_folder_of_somebody_else_is_left_alone(folder, text, tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.tex").touch()
    (tmp_path / "out.partial" / ".git").mkdir()
    with pytest.raises(JournalError, match=r"out\.partial: holds '\.git', which is no unfinished run, so it is not"):
        prune_to(tmp_path / "out", folder, calibration_text=text, **OPTIONS)
    assert sorted(path.name for path in (tmp_path / "out.partial").iterdir()) == [".git", "thesis.tex"]


def test_a_run_that_fails_before_anything_is_finished_leaves_nothing(folder, text, tmp_path):
    with pytest.raises(SelectionError):
        prune_to(tmp_path / "out", folder, calibration_text=text, **OPTIONS | {"sparsity": 0.9})
    with pytest.raises(DeviceError, match=r"^device quantum cannot be used \(.+\)$"):
        prune_to(tmp_path / "out", folder, calibration_text=text, **OPTIONS, device="quantum")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", [2_000, 12_000, 100_000])
def test_a_full_disk_is_told_in_one_sentence_and_nothing_is_half_written(limit, folder, text, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    expected = tmp_path / "expected"
    prune_to(expected, folder, calibration_text=text, **OPTIONS, device="cpu")
    # No file can grow beyond the limit, as on a disk that is full: first for a shard, then for the checkpoint.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(
            ExportError, match=r"out: cannot be written \(File too large\); what is finished is kept in"
        ):
            prune_to(tmp_path / "out", folder, calibration_text=text, **OPTIONS, device="cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "out").exists()
    for path in (tmp_path / "out.partial").rglob("*.safetensors"):
        assert load_file(path)
    prune_to(tmp_path / "out", folder, calibration_text=text, **OPTIONS, device="cpu")
    assert contents(tmp_path / "out") == contents(expected)


def test_an_expert_that_no_token_reaches_is_pruned_by_magnitude_and_it_is_said(text, tmp_path):
    with quiet():
        model = tiny_family("mixtral")
        for name, gate in model.named_parameters():
            if name.endswith("mlp.gate.weight"):
                gate.data[:] = gate.data[0]  # all experts tie, so that it is always the same two of four
        folder = save_tiny(tmp_path / "model", model)
        prune_to(tmp_path / "out", folder, calibration_text=text, **OPTIONS | {"update": Update.LSQ})
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    reached = {layer["name"]: layer["reached"] for layer in report["layers"]}
    experts = {name: found for name, found in reached.items() if ".experts." in name}
    assert all(found for name, found in reached.items() if name not in experts)
    assert sum(experts.values()) == len(experts) / 2
    for layer in report["layers"]:
        assert (layer["damping"] is None) == (not layer["reached"])
        assert layer["sparsity"] >= 0.5


def test_what_does_not_fit_in_memory_is_streamed_and_the_report_says_so(text, other, tmp_path, monkeypatch):
    folder = save_tiny(tmp_path / "model", tiny_llama(), torch.float16)
    options = OPTIONS | {"method": Method.FLOW, "calibration_text": text, "evaluation_text": other}
    prune_to(tmp_path / "whole", folder, device="cpu", **options)
    monkeypatch.setattr(choosing, "BENCH_BYTES", 1000)
    prune_to(tmp_path / "streamed", folder, device="cpu", **options)
    whole, streamed = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "streamed"))
    assert (whole["search"], streamed["search"]) == ("in memory", "streamed")
    for name, nats in streamed["trials"].items():
        assert whole["trials"][name] == pytest.approx(nats, rel=1e-5)
