"""The pipeline of nesting: both plans are what they should be, in the result and in the files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from flexcim.config.pattern import Pattern
from flexcim.packed.cells import unpack_layer
from flexcim.packed.folder import read_packed
from flexcim.packed.plans import NestedPlan
from flexcim.quiet import quiet
from flexcim_flow.layer.updates import row_errors
from flexcim_flow.nest.layers import NestError
from flexcim_flow.nest.run import nest_to
from flexcim_flow.samples.text import TextError
from tests.support.model_families import tiny_family
from tests.support.nested_models import DENSE, layers_of, nest_request, nested, prune, prune_tiny, refused
from tests.support.tiny_models import OTHER_TEXT, save_tiny, tiny_llama

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("name", DENSE)
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
    result = nest_to(tmp_path / "out", nest_request(text, half, tmp_path / "quarter"))
    assert not any(result.changed.values())
    for name, weight in layers_of(half).items():
        assert torch.equal(layers_of(tmp_path / "out" / "checkpoint")[name], weight)
    packed = [read_packed(tmp_path / name / "packed").layers for name in ("out", "half")]
    for one, other in zip(*packed, strict=True):
        first, second = (unpack_layer(layer.tiling, layer.weights, layer.offsets) for layer in (one, other))
        np.testing.assert_array_equal(first, second)


# --- What cannot be nested -------------------------------------------------------------------------------------------


def test_options_that_cannot_be_are_told(pruned, text, tmp_path):
    out = tmp_path / "out"
    message = r"layer '.*': pattern 3:8 is not on the menu"
    refused(NestError, message, text, out, *pruned, rest=Pattern(3, 8))
    refused(TextError, "length must be at most the 64 tokens", text, out, *pruned, length=65)
    refused(TextError, r"^1000000000 calibration samples of 32 tokens take", text, out, *pruned, samples=10**9)


def test_a_model_without_a_next_token_is_told(text, tmp_path):
    model = tmp_path / "bert"
    with quiet():
        save_tiny(model, tiny_family("bert"))
    prune(model, tmp_path / "pruned", text, 0.45)
    message = "bert does not predict the next token, so it has no prefill and no decode"
    refused(NestError, message, text, tmp_path / "out", model, tmp_path / "pruned")
