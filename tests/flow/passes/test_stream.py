"""What is measured of each layer's inputs, against a plain run of the whole model."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch.nn.functional import cross_entropy

from flexcim.quiet import quiet
from flexcim_flow.model.blocks import LinearLayer, find_blocks
from flexcim_flow.model.checkpoint import load_checkpoint
from flexcim_flow.passes import predictions
from flexcim_flow.passes import statistics as statistics_module
from flexcim_flow.passes.statistics import InputStatistics, observe, product_sums
from flexcim_flow.passes.stream import BlockStream, CalibrationError
from tests.support.model_families import tiny_family
from tests.support.tiny_models import save_tiny, tiny_llama, tiny_mamba2

pytestmark = pytest.mark.torch

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
    monkeypatch.setattr(predictions, "BATCH_TOKENS", 60)
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


def test_each_block_is_measured_behind_the_pruned_ones(model):
    blocks = find_blocks(model)
    stream = BlockStream(model, blocks, SAMPLES)
    dense = stream.dense
    for block in blocks:
        before = stream.measure()
        for layer in block.layers:
            assert torch.allclose(before[layer.name].norms, inputs_of(model, layer).norm(dim=0), rtol=1e-4)
        for layer in block.layers:
            layer.weight[:, ::2] = 0
        after = stream.advance()
        for layer in block.layers:
            assert after[layer.name].largest == pytest.approx(inputs_of(model, layer).abs().max().item(), rel=1e-4)
            assert int(after[layer.name].counts.sum()) == SAMPLES.numel() * layer.shape[1]
    assert not torch.allclose(before[layer.name].norms, dense[layer.name].norms, rtol=1e-2)


def test_norms_do_not_depend_on_the_batches(model, monkeypatch):
    blocks = find_blocks(model)
    first = BlockStream(model, blocks, SAMPLES).dense
    monkeypatch.setattr(predictions, "BATCH_TOKENS", 1)
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
    assert seen.tokens == 3


@pytest.mark.parametrize("inputs", [1, 3, 7, 40])
def test_second_moments_are_the_sums_of_products(inputs):
    activations = torch.randn(2, 9, inputs, generator=torch.Generator().manual_seed(0))
    flat = activations.flatten(0, 1)
    assert torch.allclose(product_sums(activations), flat.T @ flat, atol=1e-5)
    seen = InputStatistics(inputs, with_moments=True)
    seen.add(activations)
    seen.add(activations[:0])
    assert torch.allclose(seen.moments, flat.T @ flat / 18, atol=1e-6)


def test_what_several_layers_get_is_multiplied_once(model, monkeypatch):
    taken = []

    def noting(inputs):
        taken.append(inputs)
        return product_sums(inputs)

    monkeypatch.setattr(statistics_module, "product_sums", noting)
    layers = find_blocks(model)[0].layers
    with observe(layers, moments=True) as seen, torch.no_grad():
        model(input_ids=SAMPLES)
    # The query, key and value projections share their inputs, and so do gate and up; Mamba's layers share none.
    assert len(taken) == (4 if len(layers) == 7 else len(layers))
    for layer in layers:
        inputs = inputs_of(model, layer).flatten(0, -2)
        assert torch.allclose(seen[layer.name].moments, inputs.T @ inputs / len(inputs), rtol=1e-4, atol=1e-5)


def test_what_is_changed_in_place_is_multiplied_again():
    layer = torch.nn.Linear(4, 3)
    both = [LinearLayer(str(index), module) for index, module in enumerate((layer, torch.nn.Linear(4, 3)))]
    inputs = torch.ones(5, 4)
    with observe(both, moments=True) as seen, torch.no_grad():
        layer(inputs)
        both[1].module(inputs.mul_(2))
    assert torch.equal(seen["1"].moments, 4 * seen["0"].moments)


def test_a_layer_that_no_token_reaches_is_named():
    model = tiny_llama()
    model.model.layers[1].mlp.spare = torch.nn.Linear(24, 44)
    with pytest.raises(CalibrationError, match=r"^no calibration token reaches model\.layers\.1\.mlp\.spare, so its"):
        _ = BlockStream(model, find_blocks(model), SAMPLES).dense


def test_inputs_that_are_not_finite_are_named():
    model = tiny_mamba2()
    model.backbone.layers[1].norm.weight.data[0] = torch.inf
    with pytest.raises(CalibrationError, match=r"^the inputs of backbone\.layers\.1\.mixer\.in_proj are not finite on"):
        _ = BlockStream(model, find_blocks(model), SAMPLES).dense


def test_observing_ends_with_its_context():
    model = tiny_llama()
    layers = find_blocks(model)[0].layers
    with observe(layers) as seen, torch.no_grad():
        model(input_ids=SAMPLES)
    with torch.no_grad():
        model(input_ids=SAMPLES)
    assert {statistics.tokens for statistics in seen.values()} == {SAMPLES.numel()}


# -- losses and gradients ----------------------------------------------------------------------------------------------


def whole_model_losses(model) -> torch.Tensor:
    """Loss of each token but the first, [samples, length - 1], from a plain call of the model."""
    logits = model(input_ids=SAMPLES, use_cache=False).logits[:, :-1]
    return cross_entropy(logits.transpose(1, 2), SAMPLES[:, 1:], reduction="none")


def test_losses_are_those_of_the_whole_model(model):
    blocks = find_blocks(model)
    stream = BlockStream(model, blocks, SAMPLES)
    for block in blocks:
        with pytest.raises(ValueError, match=r"^what the model answers is known after its last block, not after \d$"):
            stream.losses()
        for layer in block.layers:
            layer.weight[:, ::3] = 0
        stream.advance()
    with torch.no_grad():
        assert torch.allclose(stream.losses(), whole_model_losses(model), atol=1e-5)
        targets = torch.zeros_like(SAMPLES)
        chosen = model(input_ids=SAMPLES).logits.log_softmax(-1)[..., 0]
        assert torch.allclose(stream.losses(targets), -chosen, atol=1e-5)


@contextlib.contextmanager
def gradients_of(layers):
    """Gradients of the layers' outputs, [tokens, outputs] of each batch, by name, while the context is open."""
    seen: dict[str, list[torch.Tensor]] = {layer.name: [] for layer in layers}
    with contextlib.ExitStack() as handles:
        for layer in layers:

            def watch(outputs, name=layer.name):
                if outputs.requires_grad:
                    outputs.register_hook(lambda gradient: seen[name].append(gradient.flatten(0, -2)))

            handles.callback(layer.watch_outputs(watch).remove)
        yield seen


def layers_of(blocks):
    return [layer for block in blocks for layer in block.layers]


def assert_same_gradients(model, folder, streamed=None) -> None:
    """Compare with the whole model's gradients those that pass it, or the same model on disk, block by block."""
    blocks = find_blocks(model)
    with gradients_of(layers_of(blocks)) as expected:
        whole_model_losses(model.requires_grad_(True)).mean().backward()
    model.zero_grad()
    if streamed is not None:
        model, blocks = streamed.model, streamed.blocks
    stream = BlockStream(model.requires_grad_(False), blocks, SAMPLES)
    with gradients_of(layers_of(blocks)) as found:
        order = []
        for block, batches in stream.backward(folder):
            order.append(block.name)
            if block is blocks[1]:
                assert sum(batches) == len(SAMPLES)  # the others are passed without being asked
            assert all(other is block or other.store is None or not other._is_loaded() for other in blocks)
    assert order == [block.name for block in reversed(blocks)]
    assert list(folder.iterdir()) == []
    for name, whole in expected.items():
        gradient = torch.cat(found[name])
        assert gradient.abs().max() > 0
        assert torch.allclose(gradient, whole[0], atol=1e-5 * whole[0].abs().max().item()), name
    assert all(parameter.grad is None for parameter in model.parameters())
    stream.losses()  # the stream stands at its end


def test_gradients_at_layer_outputs_are_those_of_the_whole_model(model, tmp_path):
    assert_same_gradients(model, tmp_path)


def test_gradients_pass_a_model_that_is_read_block_by_block(model, tmp_path):
    streamed = load_checkpoint(save_tiny(tmp_path / "model", model), streamed=True)
    (tmp_path / "spool").mkdir()
    assert_same_gradients(model, tmp_path / "spool", streamed)


@pytest.mark.parametrize("family", ["gpt2", "rwkv", "mamba"])
def test_gradients_of_layers_that_are_stored_or_used_otherwise(family, tmp_path):
    with quiet():
        model = tiny_family(family)
        if family == "rwkv":
            model.config.rescale_every = 0
        assert_same_gradients(model, tmp_path)


def test_experts_see_the_tokens_that_are_routed_to_them():
    with quiet():
        model = tiny_family("mixtral")
        model.set_experts_implementation("eager")
        blocks = find_blocks(model)
        dense = BlockStream(model, blocks, SAMPLES).dense
    # Each token goes to two of the four experts.
    experts = [seen.tokens for name, seen in dense.items() if "layers.0" in name and "gate_up_proj" in name]
    assert sum(experts) == 2 * SAMPLES.numel()
    assert len(set(experts)) > 1


def test_encoders_have_no_losses():
    with quiet():
        model = tiny_family("bert")
        stream = BlockStream(model, find_blocks(model), SAMPLES)
        for call in (stream.losses, lambda: next(stream.backward())):
            with pytest.raises(
                CalibrationError, match=r"^BertForMaskedLM does not predict the next token, so it has no"
            ):
                call()


def test_the_dense_model_is_measured_first():
    model = tiny_llama()
    stream = BlockStream(model, find_blocks(model), SAMPLES)
    stream.advance()
    with pytest.raises(ValueError, match=r"is to be measured before 1 blocks were passed, not after$"):
        _ = stream.dense


def test_models_that_work_between_their_blocks_are_refused():
    with quiet():
        model = tiny_family("rwkv")  # halves the hidden states every second block
        with pytest.raises(
            CalibrationError, match=r"^RwkvForCausalLM changes the hidden states before rwkv\.blocks\.2,"
        ):
            BlockStream(model, find_blocks(model), SAMPLES)
    assert not any("forward" in vars(module) for module in model.modules())
