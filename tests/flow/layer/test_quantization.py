"""Symmetric integers: they keep masks, and the integer layer computes what the hardware computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from flexcim.config.pattern import Pattern
from flexcim_flow.layer.masks import nm_mask
from flexcim_flow.layer.quantization import (
    QuantizedLinear,
    activation_scale,
    integer_product,
    quantize,
    quantize_weights,
    token_scales,
)

pytestmark = pytest.mark.torch


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_are_quantised_per_output_to_the_whole_symmetric_range(bits):
    weight = random(7, 30)
    integers, scales = quantize_weights(weight, bits)
    limit = 2 ** (bits - 1) - 1
    assert integers.dtype == torch.int8
    assert integers.abs().amax(dim=1).tolist() == [limit] * 7
    assert torch.allclose(scales, weight.abs().amax(dim=1) / limit)
    assert ((integers * scales[:, None] - weight).abs() <= scales[:, None] / 2 * 1.0001).all()


def test_quantisation_keeps_the_mask():
    weight = random(16, 64)
    mask = nm_mask(weight.abs(), Pattern(4, 8))
    integers, _ = quantize_weights(weight * mask)
    assert not integers[~mask].any()


def test_outputs_without_weights_and_with_tiny_ones_have_finite_scales():
    weight = torch.zeros(3, 4)
    weight[1, 0] = 1e-45  # its quotient by 127 is 0 in float32
    weight[2, 0] = -3.0
    integers, scales = quantize_weights(weight)
    assert scales.tolist() == [1.0, 1.0, pytest.approx(3 / 127)]
    assert integers.tolist() == [[0] * 4, [0] * 4, [-127, 0, 0, 0]]


def test_values_past_the_calibrated_range_are_clamped():
    assert quantize(torch.tensor([-5.0, 0.5, 1.5, 2.0]), activation_scale(1.0)).tolist() == [-127, 64, 127, 127]
    # Ties go to even.
    assert quantize(torch.tensor([0.5, 1.5, -2.5]), torch.tensor(1.0)).tolist() == [0, 2, -2]


def test_each_token_has_its_own_scale():
    scales = token_scales(torch.tensor([[[1.0, -4.0], [0.0, 0.0]]]))
    assert scales.shape == (1, 2, 1)
    assert scales.flatten().tolist() == [pytest.approx(4 / 127), 1.0]


@pytest.mark.parametrize("inputs", [1, 1040, 1041, 5000])
def test_integer_products_are_exact_in_the_worst_case(inputs):
    rng = np.random.default_rng(inputs)
    activations = rng.integers(-127, 128, (5, inputs), dtype=np.int8)
    weights = rng.integers(-127, 128, (6, inputs), dtype=np.int8)
    activations[0], weights[0], weights[1] = 127, 127, -127
    sums = integer_product(torch.from_numpy(activations), torch.from_numpy(weights))
    assert sums.dtype == torch.int32
    assert np.array_equal(sums.numpy(), activations.astype(np.int64) @ weights.astype(np.int64).T)


@pytest.mark.parametrize("scale", [None, activation_scale(5.0)], ids=["token", "tensor"])
def test_the_integer_layer_is_scaled_integers_and_a_bias(scale):
    torch.manual_seed(0)
    linear = nn.Linear(20, 6)
    activations = random(2, 3, 20)
    integers, scales = quantize_weights(linear.weight)
    layer = QuantizedLinear(integers, scales, linear.bias.detach(), activation_scale=scale)
    sent, sent_scale = layer.quantize_activations(activations)
    by_hand = (sent.int() @ integers.int().T) * sent_scale * scales + linear.bias
    with torch.no_grad():
        assert torch.equal(layer(activations), by_hand)
        assert (layer(activations) - linear(activations)).abs().max() < 0.1
        assert layer(activations.half()).dtype == torch.float16


def test_narrow_activations_stay_in_their_range():
    layer = QuantizedLinear(torch.ones(1, 20, dtype=torch.int8), torch.ones(1), activation_bits=4)
    sent, _ = layer.quantize_activations(random(3, 20))
    assert sent.abs().amax(dim=1).tolist() == [7, 7, 7]
