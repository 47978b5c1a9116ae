"""``flexcim nest``: a pruned model gets a denser plan, from the command down to the files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import flexcim_flow.nest.weights
from flexcim.cli import main
from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.packed.cells import unpack_layer
from flexcim.packed.folder import read_packed
from flexcim.packed.plans import NestedPlan
from flexcim_flow.common.quiet import quiet
from flexcim_flow.layer.updates import row_errors
from flexcim_flow.model.checkpoint import load_checkpoint
from flexcim_flow.nest import model as nested_model
from flexcim_flow.nest.model import NestError, default_rest
from flexcim_flow.nest.request import NestRequest
from flexcim_flow.nest.run import nest_to
from flexcim_flow.prune.calibration import PruneError
from flexcim_flow.prune.export import ExportError
from tests.support.model_families import tiny_family
from tests.support.tiny_models import OTHER_TEXT, TEXT, save_tiny, tiny_llama, tiny_mamba2

MODELS = {"llama": tiny_llama, "mamba2": tiny_mamba2}
SPARSITIES = {"llama": 0.74, "mamba2": 0.75}
"""All that 2:8 reaches: the Llama has blocks of four inputs."""


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def prune(model, output, text, sparsity, *, patterns="1:1 2:8 4:8", score="obs", update="lsq", **options):
    """What the command makes of a model, with one pattern for all layers; return the folder."""
    config = output.with_suffix(".toml")
    MacroConfig.from_mapping({"patterns": patterns.split()}).to_toml(config)
    words = [model, "-o", output, "--calibration", text, "--config", config, "--sparsity", sparsity]
    words += ["--method", "uniform", "--score", score, "--update", update, "--samples", 4, "--length", 32]
    words += [word for name, value in options.items() for word in (f"--{name}", value)]
    assert main(["prune", *map(str, words)]) == 0
    return output


def prune_tiny(name, folder, text):
    """A dense model and what pruning to 2:8 made of it."""
    model = save_tiny(folder / "model", MODELS[name](), torch.float16)
    return model, prune(model, folder / "sparser", text, SPARSITIES[name])


@pytest.fixture(scope="module")
def pruned(tmp_path_factory, text):
    return prune_tiny("llama", tmp_path_factory.mktemp("llama"), text)


def asked(text, model, sparser, **options):
    """What giving a pruned model a denser plan is asked for."""
    options = {"samples": 4, "length": 32} | options
    return NestRequest(model=model, sparser=sparser, calibration=text, **options)


def nested(pruned, text, output, **options):
    return nest_to(output, asked(text, *pruned, **options))


def layers_of(folder: Path) -> dict[str, torch.Tensor]:
    with quiet():
        return {layer.name: layer.weight.clone() for block in load_checkpoint(folder).blocks for layer in block.layers}


@pytest.mark.parametrize("name", MODELS)
def test_the_sparser_plan_is_the_pruned_model_and_the_denser_one_has_twice_as_much(name, text, tmp_path):
    pruned = prune_tiny(name, tmp_path, text)
    result = nested(pruned, text, tmp_path / "out")
    base, denser = layers_of(pruned[1] / "checkpoint"), layers_of(tmp_path / "out" / "checkpoint")
    packed = read_packed(tmp_path / "out" / "packed")
    assert packed.nested
    assert len(result.layers) == len(base) == len(packed.layers)
    for layer in packed.layers:
        weight, of_base = denser[layer.name], base[layer.name] != 0
        assert torch.equal(weight[of_base], base[layer.name][of_base])
        for start in range(0, weight.shape[1], 8):
            assert ((weight[:, start : start + 8] != 0).sum(dim=1) <= 4).all()
        assert layer.tiling.patterns == (Pattern(2, 8), Pattern(2, 8))
        # Both plans are what the checkpoints say, to half a step of the scale that they share.
        for plan, wanted in ((NestedPlan.DENSER, weight), (NestedPlan.SPARSER, base[layer.name])):
            under = layer.under(plan)
            matrix = unpack_layer(under.tiling, under.weights, under.offsets) * layer.weight_scales[:, None]
            assert np.abs(matrix - wanted.numpy()).max() <= layer.weight_scales.max() * 0.5001
    assert result.sparsity(NestedPlan.SPARSER) == pytest.approx(0.75, abs=0.02)
    assert result.sparsity(NestedPlan.DENSER) == pytest.approx(0.5, abs=0.02)
    with quiet():
        AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "checkpoint")


def test_the_denser_plan_is_nearer_to_the_dense_model(pruned, text, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(OTHER_TEXT, encoding="utf-8")
    result = nested(pruned, text, tmp_path / "out", evaluation=other)
    assert set(result.evaluations) == {"dense", "denser", "denser_quantized", "sparser", "sparser_quantized"}
    # The first block sees the same inputs in all models, so that its errors can be compared.
    dense, base, denser = (
        layers_of(path) for path in (pruned[0], pruned[1] / "checkpoint", tmp_path / "out/checkpoint")
    )
    first = result.layers[0].name
    identity = torch.eye(dense[first].shape[1])
    errors = [row_errors(dense[first], one[first], identity).sum() for one in (denser, base)]
    assert errors[0] < errors[1]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["evaluation"]["sparser"]["bits_per_byte"] == result.evaluations["sparser"].bits_per_byte
    assert report["sparsity"]["sparser"] == result.sparsity(NestedPlan.SPARSER)


def test_a_text_of_one_window_has_no_standard_error(pruned, text, tmp_path):
    window = tmp_path / "window.txt"
    window.write_text(OTHER_TEXT[:30], encoding="utf-8")
    nested(pruned, text, tmp_path / "out", evaluation=window)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["evaluation"]["sparser"]["standard_error"] is None


def test_a_share_changes_the_sparser_plans_weights_and_not_their_places(pruned, text, tmp_path):
    nested(pruned, text, tmp_path / "out", share=0.5)
    before = read_packed(pruned[1] / "packed")
    after = read_packed(tmp_path / "out" / "packed").under(NestedPlan.SPARSER)
    changed = 0
    for one, other in zip(before.layers, after.layers, strict=True):
        matrices = [unpack_layer(layer.tiling, layer.weights, layer.offsets) for layer in (one, other)]
        changed += int((matrices[0] != matrices[1]).sum())
        assert not matrices[1][layers_of(pruned[1] / "checkpoint")[one.name].numpy() == 0].any()
    assert changed


def test_a_subset_of_a_pruned_model_leaves_that_as_it_is(text, tmp_path):
    """The other way round: a model is pruned, and a part of its weights becomes the sparser plan."""
    model = save_tiny(tmp_path / "model", tiny_llama(), torch.float16)
    half = prune(model, tmp_path / "half", text, 0.4, patterns="2:8 4:8") / "checkpoint"
    prune(half, tmp_path / "quarter", text, 0.74, patterns="2:8 4:8", score="wanda", update="none")
    result = nest_to(tmp_path / "out", asked(text, half, tmp_path / "quarter"))
    assert not any(result.changed.values())
    for name, weight in layers_of(half).items():
        assert torch.equal(layers_of(tmp_path / "out" / "checkpoint")[name], weight)
    packed = [read_packed(tmp_path / name / "packed").layers for name in ("out", "half")]
    for one, other in zip(*packed, strict=True):
        first, second = (unpack_layer(layer.tiling, layer.weights, layer.offsets) for layer in (one, other))
        np.testing.assert_array_equal(first, second)


def test_a_killed_run_goes_on_and_gives_the_same_bytes(pruned, text, tmp_path, monkeypatch):
    whole = nested(pruned, text, tmp_path / "whole", share=0.5)
    calls = []

    def killed(*arguments, **options):
        calls.append(arguments)
        if len(calls) == len(whole.layers) - 1:  # in the last block
            raise KeyboardInterrupt
        return kept(*arguments, **options)

    kept = flexcim_flow.nest.weights.nest
    monkeypatch.setattr(nested_model, "nest", killed)
    with pytest.raises(KeyboardInterrupt):
        nested(pruned, text, tmp_path / "out", share=0.5)
    assert (tmp_path / "out.partial").is_dir()
    nested(pruned, text, tmp_path / "out", share=0.5)
    files = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()]
    assert len(files) > 5
    for file in files:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "out" / file).read_bytes(), file
    assert not (tmp_path / "out.partial").exists()


def test_the_command_shows_both_plans(pruned, text, tmp_path, capfd):
    words = [*pruned, "-o", tmp_path / "out", "--calibration", text, "--samples", 2, "--length", 32, "--rest", "4:8"]
    assert main(["nest", *map(str, words)]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "2:8 + 4:8" in out
    assert "sparser plan: 7" in out
    assert "was pruned before" not in out
    assert out.endswith(f"written: {tmp_path / 'out'}\n")
    # An earlier result is replaced.
    assert main(["nest", *map(str, [*words[:-2], "--share", 1])]) == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["share"] == 1


def test_a_denser_plan_that_adds_nothing_is_told(pruned, text, tmp_path, capfd):
    words = [pruned[1] / "checkpoint", pruned[1], "-o", tmp_path / "out", "--calibration", text]
    assert main(["nest", *map(str, words), "--samples", "2", "--length", "32"]) == 0
    told = "the denser plan adds nothing: the model has no weight that the sparser plan lacks\n"
    assert told in capfd.readouterr().out


def test_that_a_pruned_model_does_not_become_the_denser_plan_is_told(pruned, text, tmp_path, capfd):
    """The sparser plan was pruned from the dense model, so that it is no subset of the model that is given."""
    half = prune(pruned[0], tmp_path / "half", text, 0.4, patterns="2:8 4:8") / "checkpoint"
    capfd.readouterr()
    words = [half, pruned[1], "-o", tmp_path / "out", "--calibration", text, "--samples", 2, "--length", 32]
    assert main(["nest", *map(str, words)]) == 0
    given, denser = layers_of(half), layers_of(tmp_path / "out" / "checkpoint")
    size = sum(weight.numel() for weight in given.values())
    zeros = sum(int((weight == 0).sum()) for weight in given.values())
    changed = {name: int((weight != denser[name]).sum()) for name, weight in given.items()}
    assert (
        f"the model was pruned before ({zeros / size:.2%} of its weights are zero), and the denser plan changes "
        f"{sum(changed.values()) / size:.2%} of its weights: "
    ) in capfd.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {layer["name"]: layer["changed"] for layer in report["layers"]} == changed
    assert report["given_sparsity"] == zeros / size


@pytest.mark.parametrize(
    ("base", "rest"), [("2:8", "2:8"), ("4:8", "4:8"), ("1:2", "1:2"), ("4:7", None), ("4:5", None), ("1:1", None)]
)
def test_a_rest_doubles_what_keeps_no_more_than_half(base, rest):
    assert default_rest(Pattern.parse(base)) == (rest and Pattern.parse(rest))


# --- What cannot be nested -------------------------------------------------------------------------------------------


def refused(kind, message, text, output, model, sparser, **options):
    with pytest.raises(kind, match=message) as error:
        nest_to(output, asked(text, model, sparser, **options))
    assert "\n" not in str(error.value)
    assert not Path(f"{output}.partial").exists()


def test_options_that_cannot_be_are_told(pruned, text, tmp_path, capfd):
    out = tmp_path / "out"
    message = r"layer '.*': pattern 3:8 is not on the menu"
    refused(NestError, message, text, out, *pruned, rest=Pattern(3, 8))
    refused(PruneError, "length must be at most the 64 tokens", text, out, *pruned, length=65)
    refused(PruneError, r"^1000000000 calibration samples of 32 tokens take", text, out, *pruned, samples=10**9)
    arguments = ["nest", *map(str, pruned), "-o", str(out), "--rest", "most"]
    assert main(arguments) == 2
    assert capfd.readouterr().err == "flexcim: --rest: a pattern must be written n:m, such as 4:8, not 'most'\n"


def test_models_that_do_not_belong_together_are_told(text, tmp_path):
    """Another number of blocks, another shape, and layers that are not there."""
    llama = save_tiny(tmp_path / "llama", tiny_llama())
    mamba = save_tiny(tmp_path / "mamba", tiny_mamba2())
    prune(mamba, tmp_path / "pruned", text, 0.5)
    out = tmp_path / "out"
    refused(NestError, r"pruned has no layer 'model\.layers\.0\.self_attn", text, out, llama, tmp_path / "pruned")
    refused(ExportError, r"pruned: holds the checkpoint", text, tmp_path / "pruned", llama, tmp_path / "pruned")
    small = tiny_mamba2()
    small.backbone.layers = small.backbone.layers[:2]
    small.config.num_hidden_layers = 2
    small = save_tiny(tmp_path / "small", small)
    refused(NestError, "small has 2 blocks, but .* has 3", text, out, small, tmp_path / "pruned")


def test_a_folder_that_prune_did_not_write_is_told(pruned, text, tmp_path, capfd):
    model, sparser = pruned
    for given, said in (
        (tmp_path / "none", "there is no such folder"),
        (
            sparser / "packed",
            f"has no folder 'packed', so flexcim prune or nest did not write it; was {sparser} meant?",
        ),
        (model, "has no folder 'packed', so flexcim prune or nest did not write it"),
    ):
        words = [model, given, "-o", tmp_path / "out", "--calibration", text]
        assert main(["nest", *map(str, words)]) == 2
        assert capfd.readouterr().err == f"flexcim: {given}: {said}\n"
        assert list(tmp_path.iterdir()) == []


def test_a_model_that_has_two_plans_already_is_told(pruned, text, tmp_path):
    nested(pruned, text, tmp_path / "nested")
    message = "nested has two plans already, but the base of a nested model must have one"
    refused(NestError, message, text, tmp_path / "out", pruned[0], tmp_path / "nested")


def test_scales_that_belong_to_one_plan_are_told(text, tmp_path):
    model = save_tiny(tmp_path / "model", tiny_llama())
    prune(model, tmp_path / "pruned", text, 0.45, activations="tensor")
    message = r"has the activation scale .*, calibrated for one plan, but a nested model needs a scale for each token"
    refused(NestError, message, text, tmp_path / "out", model, tmp_path / "pruned")


def test_a_model_without_a_next_token_is_told(text, tmp_path):
    model = tmp_path / "bert"
    with quiet():
        save_tiny(model, tiny_family("bert"))
    prune(model, tmp_path / "pruned", text, 0.45)
    message = "bert does not predict the next token, so it has no prefill and no decode"
    refused(NestError, message, text, tmp_path / "out", model, tmp_path / "pruned")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_cannot_be_written_is_told(pruned, text, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(ExportError, match=r"locked/out: cannot be written \(Permission denied\)"):
        nested(pruned, text, locked / "out")
