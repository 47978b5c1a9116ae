"""``flexcim nest`` as a user calls it."""

from __future__ import annotations

import json

import pytest

from flexcim.cli import main
from tests.support.nested_models import layers_of, prune, prune_tiny
from tests.support.tiny_models import TEXT

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def pruned(tmp_path_factory, text):
    return prune_tiny("llama", tmp_path_factory.mktemp("llama"), text)


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
        f"{sum(changed.values()) / size:.2%} of its weights; "
    ) in capfd.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {layer["name"]: layer["changed"] for layer in report["layers"]} == changed
    assert report["given_sparsity"] == zeros / size


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


def test_a_pattern_that_is_none_is_told(pruned, tmp_path, capfd):
    assert main(["nest", *map(str, pruned), "-o", str(tmp_path / "out"), "--rest", "most"]) == 2
    assert capfd.readouterr().err == "flexcim: --rest: a pattern must be written n:m, such as 4:8, not 'most'\n"


def test_an_option_without_effect_is_refused(pruned, text, tmp_path, capfd):
    words = ["nest", *map(str, pruned), "-o", str(tmp_path / "out"), "--calibration", str(text), "--length", "32"]
    for options, message in (
        (("--stride", "16"), "stride 16 has no effect without a text to evaluate on"),
        (("--device", "meta"), "device meta cannot be used (it keeps the shapes of tensors, but no values)"),
    ):
        assert main([*words, *options]) == 2
        assert capfd.readouterr().err == f"flexcim: {message}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_rest_that_no_layer_gets_is_refused(pruned, text, tmp_path, capfd):
    """Layers that are dense have no room for one, and a layer that keeps more than half gets none by default."""
    model, _ = pruned
    for name, options, sparsity, patterns, message in (
        ("dense", ("--rest", "2:8"), 0, "1:1 2:8", "rest 2:8 has no effect, as each layer of {} is dense"),
        (
            "mild",
            ("--share", "0.5"),
            0.1,
            "4:5",
            "share 0.5 has no effect, as each layer of {} keeps more than half of its weights",
        ),
    ):
        sparser = prune(model, tmp_path / name, text, sparsity, patterns=patterns)
        capfd.readouterr()
        words = [model, sparser, "-o", tmp_path / "out", "--calibration", text, "--length", 32, *options]
        assert main(["nest", *map(str, words)]) == 2
        assert capfd.readouterr().err == f"flexcim: {message.format(sparser)}\n"
    assert not list(tmp_path.glob("out*"))
