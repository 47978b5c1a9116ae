"""Products of weights and inputs are seen and replaced however they are written."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from flexcim_flow.model.blocks import LinearLayer

pytestmark = pytest.mark.torch

PRODUCTS = {
    "linear": lambda weight, x: linear(x, weight),
    "linear with bias": lambda weight, x: linear(x, weight, torch.ones(3)),
    "named": lambda weight, x: linear(input=x, weight=weight, bias=torch.ones(3)),
    "matmul": lambda weight, x: x @ weight.T,
    "torch.matmul": lambda weight, x: torch.matmul(x, weight.mT),
    "mm": lambda weight, x: x.flatten(0, -2).mm(weight.T).view(*x.shape[:-1], 3),
    "addmm": lambda weight, x: torch.addmm(torch.ones(3), x.flatten(0, -2), weight.T).view(*x.shape[:-1], 3),
    "weight first": lambda weight, x: (weight @ x.mT).mT,
}


class Owner(nn.Module):
    """Multiplies by a weight in one of these ways."""

    def __init__(self, product):
        super().__init__()
        self.inner = nn.Linear(4, 3, bias=False)
        self.product = product

    def forward(self, x):
        return self.product(self.inner.weight, x)


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)
def test_each_way_to_multiply_is_seen_and_replaced(product):
    owner = Owner(product)
    layer = LinearLayer("inner", owner.inner, owner=owner)
    x = torch.randn(2, 5, 4)
    expected = owner(x)
    inputs: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []
    handles = [layer.watch(inputs.append), layer.watch_outputs(outputs.append)]
    assert torch.equal(owner(x), expected)
    assert torch.equal(inputs[0].reshape(-1, 4), x.view(-1, 4))
    assert torch.allclose(outputs[0].reshape(-1, 3), expected.reshape(-1, 3))
    handles.append(layer.substitute(lambda seen: 2 * linear(seen, owner.inner.weight)))
    bias = owner(torch.zeros(1, 1, 4))
    assert torch.allclose(owner(x) - bias, 2 * (expected - bias), atol=1e-6)
    for handle in handles:
        handle.remove()
        handle.remove()
    assert torch.equal(owner(x), expected)
    assert len(inputs) == 3
    assert not owner._forward_hooks
    assert not owner._forward_pre_hooks


def test_a_layer_by_itself_is_its_own_owner():
    module = nn.Linear(4, 3)
    seen: list[torch.Tensor] = []
    handle = LinearLayer("alone", module).watch(seen.append)
    module(torch.ones(2, 4))
    linear(torch.ones(2, 4), module.weight)  # not by the module
    handle.remove()
    assert [inputs.shape for inputs in seen] == [(2, 4)]


def test_weights_stored_the_other_way_round_are_turned():
    module = Conv1D(3, 4)
    layer = LinearLayer("turned", module, transposed=True)
    assert layer.shape == (3, 4)
    layer.weight[0] = 7
    assert (module.weight[:, 0] == 7).all()
    seen: list[torch.Tensor] = []
    layer.watch(seen.append)
    module(torch.ones(2, 5, 4))
    assert seen[0].shape == (10, 4)


def test_other_weights_of_the_owner_are_not_seen():
    owner = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    seen: list[torch.Tensor] = []
    LinearLayer("1", owner[1], owner=owner).watch(seen.append)
    x = torch.ones(1, 4)
    owner(x)
    assert len(seen) == 1
    assert torch.equal(seen[0], owner[0](x))


def test_an_error_in_the_owner_ends_the_watch():
    def fail(weight, x):
        raise KeyError("in the middle")

    owner = Owner(fail)
    seen: list[torch.Tensor] = []
    layer = LinearLayer("inner", owner.inner, owner=owner)
    layer.watch(seen.append)
    with pytest.raises(KeyError, match="in the middle"):
        owner(torch.ones(1, 4))
    linear(torch.ones(1, 4), owner.inner.weight)
    assert not seen
