"""The pruner's part of the demonstration: which layers run, and what a checkpoint becomes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flexcim.config.macro import PRESETS
from flexcim.config.pattern import Pattern
from flexcim.packed.folder import read_packed
from flexcim_sim.demo.errors import DemoError
from flexcim_sim.demo.pruning import PruneJob, choose_layers, prune_as_published, prune_by_default, smallest_layer
from tests.support.demo_reports import layer
from tests.support.model_families import tiny_family
from tests.support.tiny_models import OTHER_TEXT, TEXT, save_tiny, tiny_llama, tiny_mamba2

pytestmark = pytest.mark.torch


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


# -- pruning -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path):
    """Jobs on a model, which leave the number of threads as it was."""
    threads = torch.get_num_threads()
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "heldout.txt").write_text(OTHER_TEXT, encoding="utf-8")

    def make(model: Path) -> PruneJob:
        return PruneJob(
            model=model,
            calibration=tmp_path / "text.txt",
            heldout=tmp_path / "heldout.txt",
            evaluated=999,
            prompt="And so –",
            tokens=70,
            packed=tmp_path / "packed",
            config=PRESETS["flexcim"],
            dense=PRESETS["dense"],
            sparsity=0.5,
            seed=4,
            vectors=24,
            layers=2,
        )

    yield make
    torch.set_num_threads(threads)


def test_a_model_is_pruned_by_default_and_prepared_for_the_macro(job, tmp_path):
    made = prune_by_default(job(save_tiny(tmp_path / "llama", tiny_llama())))
    assert (made.name, made.report.label) == ("llama", "FLOW (default)")
    assert (made.report.score, made.report.update) == ("obs", "lsq"), "the pruner's own defaults"
    assert 0.5 <= made.report.sparsity < 0.6
    assert made.evaluated == len(OTHER_TEXT[:999].encode()) > 999
    assert 0 < made.bpb_dense < 10
    assert made.bpb_dense != made.report.bpb_pruned != made.report.bpb_int8
    assert made.report.cycles_model == sum(entry.cycles_model for entry in made.layers)
    assert made.report.cycles_dense_model == sum(entry.cycles_dense_model for entry in made.layers)
    packed = read_packed(tmp_path / "packed")
    assert list(packed.tilings) == [entry.name for entry in made.layers]
    for entry in made.layers:
        tiling = packed.tilings[entry.name]
        assert (Pattern(entry.n, entry.m), entry.groups) == (tiling.pattern, tiling.groups)
        assert entry.tiles == len(tiling.tiles)
        assert entry.sparsity >= 1 - entry.n / entry.m - 0.1
    for sample in (*made.full, made.small):
        assert sample.activations.shape == (24, sample.weights.shape[1])
        assert sample.activations.any()
        assert 0.2 < (sample.weights == 0).mean() < 0.9


def test_a_model_is_pruned_as_published_to_compare_with(job, tmp_path):
    made = prune_as_published(job(save_tiny(tmp_path / "mamba2", tiny_mamba2())))
    assert made.label == "published method (arXiv 2504.14365)"
    assert (made.method, made.score, made.update) == ("paper", "wanda", "none")
    assert made.sparsity >= 0.5
    assert not (tmp_path / "packed").exists(), "only what the defaults pruned goes to the hardware"


def test_a_model_writes_as_much_as_its_context_has_room_for(job, tmp_path):
    """The tiny Llama sees 64 tokens at once; a token is a byte, and those of the prompt's dash are three."""
    of = job(save_tiny(tmp_path / "llama", tiny_llama()))
    made = prune_as_published(of)
    assert 0 < len(made.text) <= 64 - len(of.prompt.encode())
    assert made.text == prune_as_published(of).text
    assert made.text.isprintable(), "bytes that are no text, and control characters, are shown as such"
    with pytest.raises(DemoError, match=r"llama: the prompt 'aaaa.*' does not fit the model's context"):
        prune_as_published(replace(of, prompt="a" * 64))


def test_a_model_that_does_not_write_is_refused(job, tmp_path):
    folder = save_tiny(tmp_path / "bert", tiny_family("bert"), mask=0)
    for prune in (prune_by_default, prune_as_published):
        with pytest.raises(DemoError, match="/bert: does not predict the next token, so it can be neither measured"):
            prune(job(folder))
