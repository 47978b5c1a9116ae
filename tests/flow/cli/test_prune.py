"""``flexcim prune`` as a user calls it."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ResNetConfig, ResNetForImageClassification

from flexcim.cli import main
from flexcim.quiet import quiet
from flexcim_flow.cli.prune import _show_recovery
from tests.support.model_families import tiny_family, tiny_inputs
from tests.support.tiny_models import OTHER_TEXT, TEXT, save_tiny, tiny_llama

pytestmark = pytest.mark.torch

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"), tiny_llama())


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def call(*words: object) -> int:
    return main(["prune", *map(str, words)])


def test_pruning_prints_the_plan_and_writes_the_folder(model, text, tmp_path, capfd):
    output, other = tmp_path / "out", tmp_path / "other.txt"
    other.write_text(OTHER_TEXT, encoding="utf-8")
    words = (model, "--sparsity", 0.6, "-o", output, "--calibration", text, "--evaluate", other)
    assert call(*words, "--samples", 4, "--length", 32, "--seed", 11) == 0
    out, err = capfd.readouterr()
    assert err == ""  # no bars where there is no terminal
    assert "seed 11: 4 calibration samples of 32 tokens" in out
    assert out.count("model.layers.") == 21
    assert "obs masks, lsq update" in out
    assert re.search(r"^tried knapsack: \d\.\d{4} nats per token away from the dense model$", out, re.MULTILINE)
    assert "of these layers' weights are zero (asked for: sparsity of at least 60.00%)" in out
    assert "bits per byte: " in out
    assert out.endswith(f"written: {output}\n")
    assert sorted(path.name for path in output.iterdir()) == ["checkpoint", "packed", "plan.toml", "report.json"]
    assert json.loads((output / "report.json").read_text())["sparsity"] >= 0.6
    # An earlier result is replaced.
    words = (model, "--sparsity", 0.5, "-o", output, "--calibration", text, "--samples", 2)
    assert call(*words, "--method", "paper", "--score", "magnitude") == 0
    assert json.loads((output / "report.json").read_text())["target"] == 0.5


@pytest.mark.parametrize(("method", "told"), [("owl", True), ("paper", True), ("uniform", False)])
def test_a_method_that_drops_more_than_was_asked_for_says_so(method, told, model, text, tmp_path, capfd):
    words = (model, "--sparsity", 0.7, "-o", tmp_path / "out", "--calibration", text, "--method", method)
    assert call(*words, "--samples", 2, "--length", 16) == 0
    found = re.findall(
        r"^(\w+) drops 7\d\.\d% of the weights, more than the 70\.0% asked for, as .+$", capfd.readouterr().out, re.M
    )
    assert found == [method] * told


def test_a_preset_and_a_configuration_file_decide_the_menu(model, text, tmp_path):
    config = tmp_path / "my.toml"
    config.write_text('[macro]\npatterns = ["1:1", "2:4"]\n')
    for words in (("--preset", "fixed-2-4"), ("--config", config)):
        output = tmp_path / "out"
        assert call(model, "--sparsity", 0.5, "-o", output, "--calibration", text, "--samples", 2, *words) == 0
        layers = json.loads((output / "report.json").read_text())["layers"]
        assert {layer["pattern"] for layer in layers} == {"2:4"}


def test_a_budget_of_bytes_can_be_asked_for(model, text, tmp_path):
    words = (model, "--budget", "bytes=0.7", "-o", tmp_path / "out", "--calibration", text, "--samples", 2)
    assert call(*words, "--method", "uniform", "--update", "obs", "--granularity", "block") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["method"], report["score"], report["update"]) == ("uniform", "wanda", "obs")
    assert (report["target"], report["budget"]) == (None, "at most 70.00% of the dense model's bytes")


def test_the_repositorys_text_is_the_default(model, tmp_path):
    assert (
        call(
            model,
            "--sparsity",
            0.5,
            "-o",
            tmp_path / "out",
            "--samples",
            2,
            "--activations",
            "tensor",
            "--method",
            "uniform",
        )
        == 0
    )
    layers = json.loads((tmp_path / "out" / "report.json").read_text())["layers"]
    assert all(layer["activation_scale"] > 0 for layer in layers)


def test_an_image_classifier_is_pruned_on_images(tmp_path, capfd):
    with quiet():
        classifier = tiny_family("vit")
        folder = save_tiny(tmp_path / "vit", classifier)
    save_file({"pixel_values": tiny_inputs(classifier, samples=6)}, tmp_path / "images.safetensors")
    words = (
        "-o",
        tmp_path / "out",
        "--calibration",
        tmp_path / "images.safetensors",
        "--samples",
        4,
        "--device",
        "cpu",
    )
    assert call(folder, "--sparsity", 0.5, "--method", "uniform", *words) == 0
    assert "seed 0: 4 calibration images of 3 x 16 x 16" in capfd.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["calibration"] == {"samples": 4, "length": None, "seed": 0}
    assert call(folder, "--sparsity", 0.5, *words) == 0
    assert re.search(r"^tried knapsack: \d\.\d{4} nats per image away from", capfd.readouterr().out, re.MULTILINE)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["method"] == "measured"


def test_a_model_of_images_needs_images(text, tmp_path, capfd):
    with quiet():
        classifier = tiny_family("vit")
        folder = save_tiny(tmp_path / "vit", classifier)
    words = (folder, "--sparsity", 0.5, "-o", tmp_path / "out", "--device", "cpu")
    assert refused(capfd, *words) == (
        f"{folder} is a model of images, which needs --calibration, a safetensors file with pixel_values"
    )
    assert refused(capfd, *words, "--calibration", text).startswith(
        f"{text}: cannot be read as a safetensors file of images ("
    )
    huge = torch.full_like(tiny_inputs(classifier), 1e38)  # finite itself, but no more after the first products
    save_file({"pixel_values": huge}, tmp_path / "huge.safetensors")
    assert refused(capfd, *words, "--method", "uniform", "--calibration", tmp_path / "huge.safetensors").endswith(
        "are not finite on the calibration images"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["huge.safetensors", "vit"]


def refused(capfd, *words: object) -> str:
    """The one line that a call fails with."""
    assert call(*words) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("flexcim: ")
    assert err.count("\n") == 1
    return err[9:-1]


def test_bad_input_is_refused_in_one_sentence(model, text, tmp_path, capfd):
    output = ("--sparsity", 0.5, "-o", tmp_path / "out")
    assert refused(capfd, "no/model", *output) == (
        "no/model: there is no such folder (checkpoints are read from local folders only)"
    )
    unreachable = (model, "--sparsity", 0.9, "-o", tmp_path / "out")
    assert refused(capfd, *unreachable).endswith("the nearest is 0.75")
    # Without 1:4, remainders keep a little more.
    assert refused(capfd, *unreachable, "--method", "paper").endswith("the nearest is 0.745")
    assert refused(capfd, model, "-o", tmp_path / "out") == (
        "one of --sparsity, --budget and --plan must be given, and not two of them"
    )
    assert refused(capfd, model, "--budget", "joules=1", "-o", tmp_path / "out") == (
        "a budget must be of sparsity, bytes or cycles, not of 'joules'"
    )
    assert refused(capfd, model, "--budget", "cycles=0.1", "-o", tmp_path / "out").startswith(
        "a share of 0.1 of the cycles is out of reach for 64 vectors on this macro, the nearest is "
    )
    assert refused(capfd, model, *output, "--preset", "flexim").startswith("unknown preset 'flexim'")
    assert refused(capfd, model, *output, "--preset", "dense", "--config", "my.toml").startswith(
        "--config and --preset exclude each other"
    )
    assert refused(capfd, model, *output, "--calibration", "no.txt") == (
        "no.txt: cannot be read (No such file or directory)"
    )
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").touch()
    assert refused(capfd, model, "--sparsity", 0.5, "-o", foreign).endswith(
        "foreign: holds 'thesis.tex', which is no result of flexcim prune or nest, so it is not replaced"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--vectors", 5), "--vectors 5 has no effect without --budget cycles=SHARE"),
        (("--stride", 16), "stride 16 has no effect without a text to evaluate on"),
        (
            ("--activation-percentile", 99),
            "activation percentile 99.0 needs activations tensor, not token, which scales each token by its own "
            "largest magnitude",
        ),
        (("--device", "meta"), "device meta cannot be used (it keeps the shapes of tensors, but no values)"),
    ],
)
def test_an_option_without_effect_is_refused(options, message, model, text, tmp_path, capfd):
    words = (model, "--sparsity", 0.5, "-o", tmp_path / "out", "--calibration", text)
    assert refused(capfd, *words, *options) == message
    assert list(tmp_path.iterdir()) == []


def test_vectors_belong_to_a_budget_of_cycles(model, text, tmp_path, capfd):
    words = (model, "-o", tmp_path / "out", "--calibration", text, "--vectors", 5)
    assert refused(capfd, *words, "--budget", "bytes=0.7") == "--vectors 5 has no effect without --budget cycles=SHARE"
    assert refused(capfd, *words, "--budget", "cycles=0.1").startswith(
        "a share of 0.1 of the cycles is out of reach for 5 vectors on this macro, the nearest is "
    )
    assert refused(capfd, *words[:-1], 0, "--budget", "cycles=0.7") == (
        "a budget of cycles needs at least one vector, not 0"
    )


def test_texts_that_are_empty_or_too_short_are_refused(model, text, tmp_path, capfd):
    short = tmp_path / "short.txt"
    options = (model, "--sparsity", 0.5, "-o", tmp_path / "out", "--method", "uniform", "--samples", 2)
    short.write_text(" \n")
    assert refused(capfd, *options, "--calibration", short) == f"{short}: is empty"
    assert refused(capfd, *options, "--calibration", text, "--evaluate", short) == f"{short}: is empty"
    short.write_text("words")
    assert refused(capfd, *options, "--calibration", short) == (
        "the calibration text has 5 tokens, fewer than the 64 of one sample"
    )
    short.write_bytes(b"\xff")
    assert refused(capfd, *options, "--calibration", short) == f"{short}: is no UTF-8 text (byte 0 is 0xff)"
    short.write_text("w")
    assert refused(capfd, *options, "--calibration", text, "--evaluate", short) == (
        "the evaluation text has 1 tokens, but at least 2 are needed"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["short.txt"]


def test_models_that_cannot_be_pruned_are_refused(model, text, tmp_path, capfd):
    output = ("--sparsity", 0.5, "-o", tmp_path / "out", "--calibration", text)
    broken = shutil.copytree(model, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    assert refused(capfd, broken, *output) == (
        f"{broken}: model.layers.1.mlp.up_proj.weight holds values that are not finite"
    )
    # The blocks before it are pruned by then, which must not stand in the way of the next command.
    uniform = ("--method", "uniform", "--length", 16, "--samples", 2)
    assert refused(capfd, broken, *output, *uniform).startswith(f"{broken}: model.layers.1.mlp.up_proj.weight holds")
    assert not (tmp_path / "out.partial").exists()
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic")
    with quiet():
        ResNetForImageClassification(config).save_pretrained(tmp_path / "resnet")
    assert refused(capfd, tmp_path / "resnet", *output) == (
        "the blocks in resnet.encoder.stages of ResNetForImageClassification have no linear layers to prune"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "resnet"]


@pytest.mark.parametrize(("limit", "recover"), [(12_000, 0), (40_000, 1)], ids=["a block", "the recovered rest"])
def test_a_full_disk_is_one_sentence_and_the_same_command_finishes(limit, recover, model, text, tmp_path, capfd):
    output = tmp_path / "out"
    words = [model, "--sparsity", 0.5, "-o", output, "--calibration", text, "--samples", 2, "--length", 16]
    words += ["--method", "uniform", "--device", "cpu", "--recover", recover]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        said = refused(capfd, *words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert said == f"{output}: cannot be written (File too large); what is finished is kept in {output}.partial"
    assert not output.exists()
    for path in (tmp_path / "out.partial").rglob("*.safetensors"):
        assert load_file(path)
    assert not (tmp_path / "out.partial" / "recovered").exists()
    assert call(*words) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_recovery_is_shown(model, text, tmp_path, capfd):
    other = tmp_path / "other.txt"
    other.write_text(OTHER_TEXT[:300], encoding="utf-8")
    words = (model, "--sparsity", 0.5, "-o", tmp_path / "out", "--calibration", text, "--evaluate", other)
    assert call(*words, "--method", "uniform", "--samples", 2, "--length", 16, "--recover", 3) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "recovery: 3 steps\n" in out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    bits = {name: found["bits_per_byte"] for name, found in report["evaluation"].items()}
    assert f"bits per byte: {bits['dense']:.4f} dense, {bits['pruned']:.4f} pruned, {bits['recovered']:.4f} rec" in out
    assert f"integers: {bits['dense_quantized']:.4f} dense, {bits['quantized']:.4f} pruned and recovered\n" in out


def test_what_cannot_be_recovered_is_refused(text, tmp_path, capfd):
    with quiet():
        folder = save_tiny(tmp_path / "bert", tiny_family("bert"))
    words = (folder, "--sparsity", 0.5, "-o", tmp_path / "out", "--calibration", text, "--method", "owl")
    assert refused(capfd, *words, "--recover", 3) == (
        "bert does not predict the next token, so there is no loss to recover it by; recovery steps must be 0"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bert"]


def test_help_needs_no_heavy_import():
    code = (
        "import sys; from flexcim.cli import main; main(['prune', '--help']); "
        "sys.exit(', '.join({'torch', 'transformers', 'scipy', 'amaranth'} & set(sys.modules)) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "--sparsity" in run.stdout


def test_a_seed_that_is_none_is_refused(model, text, tmp_path, capfd):
    words = (model, "--sparsity", 0.5, "--method", "uniform", "--calibration", text, "-o", tmp_path / "out")
    assert call(*words, "--samples", 2, "--length", 16, "--seed", 2**64) == 2
    assert capfd.readouterr().err == f"flexcim: a seed must be between 0 and {2**64 - 1}, not {2**64}\n"
    assert list(tmp_path.glob("out*")) == []


def test_losses_are_shown_of_recoveries_that_are_long_enough_to_tell(capfd):
    _show_recovery([2.0] * 10 + [1.5] * 80 + [1.0] * 10)
    _show_recovery([2.0] * 99)
    shown = "recovery: 100 steps, loss 2.0000 in their first tenth, 1.0000 in the last\nrecovery: 99 steps\n"
    assert capfd.readouterr().out == shown
