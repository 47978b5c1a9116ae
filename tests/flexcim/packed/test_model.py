"""Packed models in memory: what they are under each plan. Those on disk are in test_nested.py."""

from __future__ import annotations

import numpy as np
import pytest

from flexcim.config.pattern import Pattern
from flexcim.packed.cells import unpack_layer
from flexcim.packed.layer import PackedError
from flexcim.packed.plans import NestedPlan
from tests.support.packed_models import LAYERS, MODEL, nested_model


def test_the_plans_go_by_the_words_of_the_command_line():
    assert [plan.value for plan in NestedPlan] == ["denser", "sparser"]


def test_the_tilings_are_those_of_the_layers_in_order():
    assert list(MODEL.tilings.items()) == [(layer.name, layer.tiling) for layer in LAYERS]


def test_a_model_of_one_plan_has_that_alone():
    assert not MODEL.nested
    assert MODEL.under(NestedPlan.DENSER) is MODEL
    message = r"^the packed model has only one plan, so it cannot be run under a sparser one$"
    with pytest.raises(PackedError, match=message):
        MODEL.under(NestedPlan.SPARSER)


def test_a_nested_model_under_its_sparser_plan_is_its_bases():
    model, matrices = nested_model()
    assert model.nested
    assert model.under(NestedPlan.DENSER) is model
    sparser = model.under(NestedPlan.SPARSER)
    assert not sparser.nested
    assert (sparser.config, sparser.metadata) == (model.config, model.metadata)
    assert {name: tiling.patterns for name, tiling in sparser.tilings.items()} == {
        "a": (Pattern(2, 8),),
        "b": (Pattern(2, 8),),
        "c": (Pattern(4, 8),),
    }
    for layer, whole in zip(sparser.layers, model.layers, strict=True):
        found = unpack_layer(layer.tiling, layer.weights, layer.offsets)
        np.testing.assert_array_equal(found, matrices[NestedPlan.SPARSER][layer.name])
        assert layer.weight_scales is whole.weight_scales
    # A layer that is not nested is the same under both.
    assert sparser.layers[2] is model.layers[2]
