"""Pairs of layers: which models belong together, and which layers get a rest."""

from __future__ import annotations

import pytest

from flexcim.config.pattern import Pattern
from flexcim_flow.nest.layers import NestError, default_rest
from flexcim_flow.prune.folder import FolderError
from tests.support.nested_models import nested, prune, refused
from tests.support.tiny_models import save_tiny, tiny_llama, tiny_mamba2

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("base", "rest"), [("2:8", "2:8"), ("4:8", "4:8"), ("1:2", "1:2"), ("4:7", None), ("4:5", None), ("1:1", None)]
)
def test_a_rest_doubles_what_keeps_no_more_than_half(base, rest):
    assert default_rest(Pattern.parse(base)) == (rest and Pattern.parse(rest))


def test_models_that_do_not_belong_together_are_told(text, tmp_path):
    """Another number of blocks, another shape, and layers that are not there."""
    llama = save_tiny(tmp_path / "llama", tiny_llama())
    mamba = save_tiny(tmp_path / "mamba", tiny_mamba2())
    prune(mamba, tmp_path / "pruned", text, 0.5)
    out = tmp_path / "out"
    refused(NestError, r"pruned has no layer 'model\.layers\.0\.self_attn", text, out, llama, tmp_path / "pruned")
    refused(FolderError, r"pruned: holds the checkpoint", text, tmp_path / "pruned", llama, tmp_path / "pruned")
    small = tiny_mamba2()
    small.backbone.layers = small.backbone.layers[:2]
    small.config.num_hidden_layers = 2
    small = save_tiny(tmp_path / "small", small)
    refused(NestError, "small has 2 blocks, but .* has 3", text, out, small, tmp_path / "pruned")


def test_a_model_that_has_two_plans_already_is_told(pruned, text, tmp_path):
    nested(pruned, text, tmp_path / "nested")
    message = "nested has two plans already, but the base of a nested model must have one"
    refused(NestError, message, text, tmp_path / "out", pruned[0], tmp_path / "nested")


def test_scales_that_belong_to_one_plan_are_told(text, tmp_path):
    model = save_tiny(tmp_path / "model", tiny_llama())
    prune(model, tmp_path / "pruned", text, 0.45, activations="tensor")
    message = r"has the activation scale .*, calibrated for one plan, but a nested model needs a scale for each token"
    refused(NestError, message, text, tmp_path / "out", model, tmp_path / "pruned")
