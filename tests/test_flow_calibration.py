"""What is measured of each layer's inputs, against a plain run of the whole model."""

from __future__ import annotations

import pytest
import torch

from flow import calibration
from flow.blocks import find_blocks
from flow.calibration import BlockStream, CalibrationError
from flow.statistics import InputStatistics, observe
from tests.tiny_models import tiny_llama, tiny_mamba2

SAMPLES = torch.randint(256, (7, 20), generator=torch.Generator().manual_seed(0))


def inputs_of(model, layer) -> torch.Tensor:
    """Inputs of one layer when the model reads the samples, [tokens, inputs]."""
    seen = []
    handle = layer.module.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        model(input_ids=SAMPLES)
    handle.remove()
    return torch.cat(seen).flatten(0, -2)


@pytest.fixture(params=[tiny_llama, tiny_mamba2], ids=["llama", "mamba2"])
def model(request, monkeypatch):
    # Three samples to a batch, so that there are several batches and a shorter last one.
    monkeypatch.setattr(calibration, "BATCH_TOKENS", 60)
    return request.param()


def test_dense_statistics_are_those_of_the_whole_model(model):
    blocks = find_blocks(model)
    stream = BlockStream(model, blocks, SAMPLES)
    for block in blocks:
        for layer in block.layers:
            inputs = inputs_of(model, layer)
            seen = stream.dense[layer.name]
            assert seen.tokens == SAMPLES.numel()
            assert torch.allclose(seen.norms, inputs.norm(dim=0), rtol=1e-4)
            assert seen.largest == pytest.approx(inputs.abs().max().item(), rel=1e-4)


def test_each_block_is_measured_behind_the_pruned_ones(model):
    blocks = find_blocks(model)
    stream = BlockStream(model, blocks, SAMPLES)
    for block in blocks:
        before = stream.measure()
        for layer in block.layers:
            assert torch.allclose(before[layer.name].norms, inputs_of(model, layer).norm(dim=0), rtol=1e-4)
        for layer in block.layers:
            layer.weight[:, ::2] = 0
        after = stream.advance()
        for layer in block.layers:
            assert torch.allclose(after[layer.name].norms, inputs_of(model, layer).norm(dim=0), rtol=1e-4)
    assert not torch.allclose(after[layer.name].norms, stream.dense[layer.name].norms, rtol=1e-2)


def test_norms_do_not_depend_on_the_batches(model, monkeypatch):
    blocks = find_blocks(model)
    first = BlockStream(model, blocks, SAMPLES).dense
    monkeypatch.setattr(calibration, "BATCH_TOKENS", 1)
    second = BlockStream(model, blocks, SAMPLES).dense
    for name in first:
        assert torch.allclose(first[name].norms, second[name].norms, rtol=1e-5)


def test_no_hook_stays_on_the_model(model):
    BlockStream(model, find_blocks(model), SAMPLES).advance()
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_statistics_add_up():
    seen = InputStatistics(2)
    seen.add(torch.tensor([[[3.0, 0.0], [4.0, -7.0]]]))
    seen.add(torch.tensor([[0.0, 1.0]]))
    assert seen.norms.tolist() == [5.0, pytest.approx(50**0.5)]
    assert (seen.tokens, seen.largest) == (3, 7.0)


def test_a_layer_that_no_token_reaches_is_named():
    model = tiny_llama()
    model.model.layers[1].mlp.spare = torch.nn.Linear(24, 44)
    with pytest.raises(CalibrationError, match=r"^no calibration token reaches model\.layers\.1\.mlp\.spare, so its"):
        BlockStream(model, find_blocks(model), SAMPLES)


def test_inputs_that_are_not_finite_are_named():
    model = tiny_mamba2()
    model.backbone.layers[1].norm.weight.data[0] = torch.inf
    with pytest.raises(CalibrationError, match=r"^the inputs of backbone\.layers\.1\.mixer\.in_proj are not finite on"):
        BlockStream(model, find_blocks(model), SAMPLES)


def test_observing_ends_with_its_context():
    model = tiny_llama()
    layers = find_blocks(model)[0].layers
    with observe(layers) as seen, torch.no_grad():
        model(input_ids=SAMPLES)
    with torch.no_grad():
        model(input_ids=SAMPLES)
    assert {statistics.tokens for statistics in seen.values()} == {SAMPLES.numel()}
