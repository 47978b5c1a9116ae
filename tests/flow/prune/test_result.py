"""The result: what the hardware gets, and when a method has dropped more than was asked for."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from flexcim_flow.layer.quantization import QuantizedLinear
from flexcim_flow.prune.result import overshoot

pytestmark = pytest.mark.torch


def test_activations_are_what_the_integer_model_sends_to_the_hardware(result):
    names = [result.layers[0].name, result.layers[-1].name]
    vectors = result.activations(names, 50)
    model = copy.deepcopy(result.checkpoint.model)
    inputs: dict[str, torch.Tensor] = {}
    for layer in result.layers:
        weights, scales = layer.integers()
        module = QuantizedLinear(weights, scales, layer.layer.bias)
        model.set_submodule(layer.name, module)
        module.register_forward_pre_hook(
            lambda module, arguments, name=layer.name: inputs.setdefault(name, arguments[0])
        )
    with torch.no_grad():
        model(input_ids=result.samples[:2])
    for name in names:
        assert vectors[name].dtype == np.int8
        assert vectors[name].shape == (50, result.layer(name).tiling.inputs)
        seen = inputs[name].flatten(0, 1)[:50]
        scale = seen.abs().amax(dim=1, keepdim=True) / 127
        assert np.array_equal(vectors[name], (seen / scale).round().numpy())
    assert not any(module._forward_hooks for module in result.checkpoint.model.modules())


def test_impossible_activations_are_refused(result):
    name = result.layers[0].name
    with pytest.raises(KeyError, match="there is no layer 'lm_head' among the pruned ones"):
        result.activations(["lm_head"], 5)
    for vectors in (0, 201):
        with pytest.raises(ValueError, match=f"must be between 1 and the 200 calibration tokens, not {vectors}$"):
            result.activations([name], vectors)
    assert result.activations([name], 200)[name].shape[0] == 200


def test_a_method_that_drops_more_than_a_hundredth_beyond_what_was_asked_for_is_told():
    assert overshoot("paper", 0.6, 0.6099) is None
    assert overshoot("paper", 0.6, 0.62) == (
        "paper drops 62.0% of the weights, more than the 60.0% asked for, as each layer or block has one of the menu's "
        "few patterns"
    )
    told = overshoot("owl", 0.6, 0.75)
    assert told is not None
    assert told.startswith("owl drops 75.0% of the weights, more than the 60.0% asked for, as its patterns share one m")
