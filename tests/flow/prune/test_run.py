"""Runs from disk to disk: one block in memory, killed and resumed, refused and out of space."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from flexcim.packed.cells import unpack_layer
from flexcim.packed.folder import read_packed
from flexcim.quiet import quiet
from flexcim_flow.choice import measured
from flexcim_flow.choice.problem import SelectionError
from flexcim_flow.common.journal import JournalError
from flexcim_flow.common.options import ActivationScale, Update
from flexcim_flow.common.setting import DeviceError
from flexcim_flow.layer.masks import nm_mask
from flexcim_flow.layer.quantization import quantize_weights
from flexcim_flow.measure.evaluation import evaluate
from flexcim_flow.model import checkpoint
from flexcim_flow.model.blocks import find_blocks
from flexcim_flow.model.weights import Weights
from flexcim_flow.prune import pruner
from flexcim_flow.prune.folder import FolderError, write_result
from flexcim_flow.prune.pruner import prune
from flexcim_flow.prune.run import prune_to
from flexcim_flow.samples.text import tokenize
from tests.support.model_families import tiny_family, tiny_inputs
from tests.support.prune_requests import asked
from tests.support.tiny_models import OTHER_TEXT, TEXT, byte_tokenizer, save_tiny, tiny_llama

pytestmark = pytest.mark.torch

ROOT = Path(__file__).resolve().parents[3]
OPTIONS: dict[str, Any] = {
    "sparsity": 0.5,
    "samples": 3,
    "length": 24,
    "method": "paper",
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


@pytest.mark.parametrize("method", ["paper", "measured"])
def test_a_run_from_disk_to_disk_gives_the_same_bytes_as_one_in_memory(method, folder, text, other, tmp_path):
    options = OPTIONS | {"method": method, "calibration": text, "evaluation": other}
    write_result(tmp_path / "whole", prune(asked(folder, **options)))
    result = prune_to(tmp_path / "streamed", asked(folder, **options))
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
    options = OPTIONS | {"calibration": text}
    with quiet():
        model = tiny_family(family)
        folder = save_tiny(tmp_path / "model", model)
        if family == "vit":
            options |= {"calibration": tmp_path / "images.safetensors", "length": None}
            save_file({"pixel_values": tiny_inputs(model)}, tmp_path / "images.safetensors")
    prune_to(tmp_path / "out", asked(folder, **options))
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
import flexcim_flow.model.checkpoint
from flexcim_flow.common.options import Update
from flexcim_flow.prune.run import prune_to
from tests.support.prune_requests import asked

output, model, text, other, method, recover, seed, single = sys.argv[1:]
flexcim_flow.model.checkpoint._SINGLE_FILE_BYTES = int(single)
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
    options = dict(sparsity=0.5, samples=3, length=24, method=method, update=Update.LSQ, recover=int(recover))
    prune_to(output, asked(model, calibration=text, evaluation=other, **options))

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
    ("seed", "single", "method", "recover"),
    [(1, 1 << 30, "paper", 0), (2, 0, "measured", 0), (3, 1 << 30, "paper", 3), (4, 0, "paper", 3)],
    ids=["one file", "shards", "one file, recovered", "shards, recovered"],
)
@pytest.mark.slow
def test_a_run_that_is_killed_at_any_point_gives_the_same_bytes_in_the_end(
    seed, single, method, recover, folder, text, other, tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoint, "_SINGLE_FILE_BYTES", single)
    expected = tmp_path / "expected"
    options = OPTIONS | {"method": method, "calibration": text, "evaluation": other, "recover": recover}
    prune_to(expected, asked(folder, **options))
    output = tmp_path / "place" / "out"
    output.parent.mkdir()
    if seed == 2:
        # An earlier result, of other options, that is to be replaced.
        prune_to(output, asked(folder, **options | {"sparsity": 0.25, "samples": 2, "length": 16}))
    words = [sys.executable, "-c", VICTIMS]
    words += map(str, (output, folder, text, other, method, recover, seed, single))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) >= 3
    # A process that is killed between the last rename and the end leaves its work folder, which the next one clears.
    prune_to(output, asked(folder, **options))
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
        prune_to(tmp_path / "out", asked(folder, calibration=text, **OPTIONS), progress=interrupt)
    assert not (tmp_path / "out").exists()
    shards = sorted((partial / "result" / "checkpoint").iterdir())
    assert [path.name for path in shards] == [f"model-0000{index}-of-00004.safetensors" for index in (1, 2)]
    assert (load_file(shards[0])["model.layers.0.mlp.up_proj.weight"] == 0).any()
    times = [path.stat().st_mtime_ns for path in shards]
    with pytest.raises(KeyboardInterrupt):
        prune_to(tmp_path / "out", asked(folder, calibration=text, **OPTIONS), progress=interrupt)
    assert [path.stat().st_mtime_ns for path in shards] == times
    prune_to(tmp_path / "out", asked(folder, calibration=text, **OPTIONS))
    assert not partial.exists()


# -- recovery ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["tied llama", "mamba2", "gpt2", "mixtral"])
def test_a_recovered_model_reaches_the_disk_whole_with_its_zeros_in_place(family, text, tmp_path):
    with quiet():
        folder = save_tiny(tmp_path / "model", tiny_family(family.removeprefix("tied ")))
    options = OPTIONS | {"calibration": text}
    prune_to(tmp_path / "pruned", asked(folder, **options))
    result = prune_to(tmp_path / "recovered", asked(folder, recover=4, **options))
    write_result(tmp_path / "in memory", prune(asked(folder, recover=4, **options)))
    assert contents(tmp_path / "recovered") == contents(tmp_path / "in memory")
    source, pruned, recovered = (
        load_file(path / "model.safetensors")
        for path in (folder, tmp_path / "pruned" / "checkpoint", tmp_path / "recovered" / "checkpoint")
    )
    assert source.keys() == pruned.keys() == recovered.keys()
    dropped = 0
    for name, tensor in recovered.items():
        assert not torch.equal(tensor, pruned[name]), f"{name} has learned nothing"
        zeros = (pruned[name] == 0) & (source[name] != 0)
        assert not tensor[zeros].any()
        dropped += int(zeros.sum())
    assert dropped == sum(layer.zeros for layer in result.layers) > 0
    with quiet():
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "recovered" / "checkpoint")
        layers = {layer.name: layer.weight for block in find_blocks(model) for layer in block.layers}
    for layer in read_packed(tmp_path / "recovered" / "packed").layers:
        integers = torch.from_numpy(unpack_layer(layer.tiling, layer.weights, layer.offsets))
        assert torch.equal(integers, quantize_weights(layers[layer.name])[0])
        assert not integers[layers[layer.name] == 0].any()
    report = json.loads((tmp_path / "recovered" / "report.json").read_text())
    assert report["recovery"]["steps"] == 4
    assert (
        report["recovery"]["first_loss"] == result.recovery[0] > result.recovery[-1] == report["recovery"]["last_loss"]
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_recovered_model_keeps_its_dtype_and_what_comes_back_is_shown(dtype, text, other, tmp_path):
    folder = save_tiny(tmp_path / "model", tiny_llama(), dtype)
    options = OPTIONS | {"calibration": text, "evaluation": other, "recover": 20}
    result = prune_to(tmp_path / "out", asked(folder, **options))
    saved = load_file(tmp_path / "out" / "checkpoint" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {dtype}
    for layer in result.layers:
        weight = saved[f"{layer.name}.weight"]
        with layer.block.loaded():
            assert torch.equal(weight.float(), layer.layer.weight)
        assert not weight[~nm_mask(weight.abs(), layer.pattern)].any()
    found = json.loads((tmp_path / "out" / "report.json").read_text())["evaluation"]
    pruned, recovered, quantized = (found[name]["bits_per_byte"] for name in ("pruned", "recovered", "quantized"))
    assert recovered < pruned - 0.1  # an untrained model learns the letters
    assert quantized == pytest.approx(recovered, rel=0.02)
    with quiet():
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "checkpoint", dtype=torch.float32)
    words = other.read_text(encoding="utf-8")
    again = evaluate(model.eval(), tokenize(words, byte_tokenizer()), len(words.encode()), 24)
    assert again.bits_per_byte == pytest.approx(recovered, rel=1e-5)


def test_scales_come_from_the_recovered_model(folder, text):
    options = OPTIONS | {"calibration": text, "activations": ActivationScale.TENSOR, "recover": 4}
    result = prune(asked(folder, **options))
    seen: dict[str, float] = {}

    def watch(name: str, inputs: torch.Tensor) -> None:
        seen[name] = inputs.abs().max().item()

    for layer in result.layers:
        layer.layer.watch(partial(watch, layer.name))
    with torch.no_grad():
        result.checkpoint.model(input_ids=result.samples)
    for layer in result.layers:
        assert layer.activation_scale is not None
        assert layer.activation_scale.item() == pytest.approx(seen[layer.name] / 127, rel=1e-4)


def test_a_recovery_that_was_cut_begins_again_and_a_finished_one_does_not(folder, text, other, tmp_path, monkeypatch):
    request = asked(folder, calibration=text, evaluation=other, recover=3, **OPTIONS)
    prune_to(tmp_path / "expected", request)
    steps: list[str] = []

    def interrupt_at(step):
        def told(name: str, done: int, total: int) -> None:
            steps.append(name)
            assert done < total
            if name == step:
                raise KeyboardInterrupt

        return told

    partial = tmp_path / "out.partial"
    for step in ("recovering, step 2 of 3", "recovering, step 3 of 3", "evaluating the recovered model"):
        assert not (partial / "recovered").exists()
        with pytest.raises(KeyboardInterrupt):
            prune_to(tmp_path / "out", request, progress=interrupt_at(step))
    assert (partial / "recovered").exists()
    assert [name for name in steps if name == "recovering, step 1 of 3"] == ["recovering, step 1 of 3"] * 3
    monkeypatch.setattr(pruner, "recover", lambda *arguments, **options: pytest.fail("is finished"))
    prune_to(tmp_path / "out", request)
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")
    assert not partial.exists()


# -- refusals ----------------------------------------------------------------------------------------------------------


def interrupted(tmp_path, folder, text):
    """Leave an unfinished run behind."""

    def interrupt(name: str, done: int, total: int) -> None:
        if name.startswith("pruning block 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune_to(tmp_path / "out", asked(folder, calibration=text, **OPTIONS), progress=interrupt)


def test_another_run_does_not_mix_with_an_unfinished_one(folder, text, tmp_path):
    interrupted(tmp_path, folder, text)
    other = OPTIONS | {"sparsity": 0.6}
    with pytest.raises(
        JournalError,
        match=r"out\.partial: holds an unfinished run with budget \"SparsityBudget\(sparsity=0\.5\)\", not "
        r"\"SparsityBudget\(sparsity=0\.6\)\"; run that command again to",
    ):
        prune_to(tmp_path / "out", asked(folder, calibration=text, **other))
    changed = tmp_path / "changed.txt"
    changed.write_text(TEXT)
    with pytest.raises(JournalError, match=r"holds an unfinished run with calibration \"\w+ \.\.\., not \"\w+ \.\.\.;"):
        prune_to(tmp_path / "out", asked(folder, calibration=changed, **OPTIONS))


def test_a_work_folder_of_somebody_else_is_left_alone(folder, text, tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.tex").touch()
    (tmp_path / "out.partial" / ".git").mkdir()
    with pytest.raises(JournalError, match=r"out\.partial: holds '\.git', which is no unfinished run, so it is not"):
        prune_to(tmp_path / "out", asked(folder, calibration=text, **OPTIONS))
    assert sorted(path.name for path in (tmp_path / "out.partial").iterdir()) == [".git", "thesis.tex"]


def test_a_run_that_fails_before_anything_is_finished_leaves_nothing(folder, text, tmp_path):
    with pytest.raises(SelectionError):
        prune_to(tmp_path / "out", asked(folder, calibration=text, **OPTIONS | {"sparsity": 0.9}))
    with pytest.raises(DeviceError, match=r"^device quantum cannot be used \(.+\)$"):
        prune_to(tmp_path / "out", asked(folder, calibration=text, **OPTIONS, device="quantum"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", [2_000, 12_000, 100_000])
def test_a_full_disk_is_told_in_one_sentence_and_nothing_is_half_written(limit, folder, text, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    expected = tmp_path / "expected"
    prune_to(expected, asked(folder, calibration=text, **OPTIONS))
    # No file can grow beyond the limit, as on a disk that is full: first for a shard, then for the checkpoint.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(
            FolderError, match=r"out: cannot be written \(File too large\); what is finished is kept in"
        ):
            prune_to(tmp_path / "out", asked(folder, calibration=text, **OPTIONS))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "out").exists()
    for path in (tmp_path / "out.partial").rglob("*.safetensors"):
        assert load_file(path)
    prune_to(tmp_path / "out", asked(folder, calibration=text, **OPTIONS))
    assert contents(tmp_path / "out") == contents(expected)


def test_an_expert_that_no_token_reaches_is_pruned_by_magnitude_and_it_is_said(text, tmp_path):
    with quiet():
        model = tiny_family("mixtral")
        for name, gate in model.named_parameters():
            if name.endswith("mlp.gate.weight"):
                gate.data[:] = gate.data[0]  # all experts tie, so that it is always the same two of four
        folder = save_tiny(tmp_path / "model", model)
        prune_to(tmp_path / "out", asked(folder, calibration=text, **OPTIONS | {"update": Update.LSQ}))
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
    options = OPTIONS | {"method": "measured", "calibration": text, "evaluation": other}
    prune_to(tmp_path / "whole", asked(folder, **options))
    monkeypatch.setattr(measured, "BENCH_BYTES", 1000)
    prune_to(tmp_path / "streamed", asked(folder, **options))
    whole, streamed = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "streamed"))
    assert (whole["search"], streamed["search"]) == ("in memory", "streamed")
    for name, nats in streamed["trials"].items():
        assert whole["trials"][name] == pytest.approx(nats, rel=1e-5)
