"""The whole pipeline on small models of real classes, and what comes out."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flexcim.config.macro import PRESETS
from flexcim.config.pattern import Pattern
from flexcim_flow.choice.budgets import CycleBudget
from flexcim_flow.choice.problem import SelectionError
from flexcim_flow.common.options import ActivationScale, Granularity, Update
from flexcim_flow.layer.masks import nm_mask
from flexcim_flow.prune import calibration, pruner
from flexcim_flow.prune.folder import write_result
from flexcim_flow.prune.packing import pack_one
from flexcim_flow.prune.pruner import prune
from flexcim_flow.samples import windows
from flexcim_flow.samples.text import TextError, read_text, tokenize
from tests.support.prune_requests import asked
from tests.support.tiny_models import OTHER_TEXT, TEXT

pytestmark = pytest.mark.torch

TARGET = 0.6


def test_each_layer_keeps_its_pattern_and_the_target_is_reached(result):
    model = result.checkpoint.model
    zeros = weights = 0
    for layer in result.layers:
        weight = model.get_submodule(layer.name).weight
        assert layer.pattern in PRESETS["flexcim"].patterns
        # The n largest magnitudes of each block are all the weights there are.
        assert not weight[~nm_mask(weight.detach().abs(), layer.pattern)].any()
        assert layer.zeros == (weight == 0).sum()
        assert layer.sparsity == layer.zeros / weight.numel()
        zeros += layer.zeros
        weights += weight.numel()
    assert result.sparsity == zeros / weights >= TARGET
    assert zeros >= weights - result.selection.assignment.used >= TARGET * weights
    assert result.request.seed == 7


def test_layers_of_a_block_share_a_pattern_and_nothing_else_is_touched(result, folder):
    patterns: dict[str, Pattern] = {}
    for layer in result.layers:
        assert patterns.setdefault(layer.block, layer.pattern) == layer.pattern
    assert len(patterns) == len(result.selection.assignment.choices) == 3
    pruned = {f"{layer.name}.weight" for layer in result.layers}
    state = result.checkpoint.model.state_dict()
    before = load_file(folder / "model.safetensors")
    for name, tensor in before.items():
        if name in pruned:
            kept = state[name] != 0
            assert torch.equal(state[name][kept], tensor[kept].float())
        else:
            assert torch.equal(state[name], tensor.float())


def test_the_integer_model_is_close_to_the_pruned_one(result):
    dense, pruned, quantized = (
        getattr(result.evaluations, name).bits_per_byte for name in ("dense", "pruned", "quantized")
    )
    assert 7 < dense < 10  # an untrained model of bytes
    assert pruned != dense
    assert quantized == pytest.approx(pruned, rel=0.02)
    assert quantized != pruned


def test_the_same_seed_gives_the_same_result(result, folder, text):
    again, other = (
        prune(asked(folder, sparsity=TARGET, calibration=text, method="paper", samples=5, length=40, seed=seed))
        for seed in (7, 8)
    )
    assert again.selection == result.selection
    assert torch.equal(again.samples, result.samples)
    assert not torch.equal(other.samples, result.samples)
    for one, two in zip(again.layers, result.layers, strict=True):
        assert torch.equal(one.integers()[0], two.integers()[0])
    assert again.evaluations is None


def test_one_scale_for_a_whole_tensor_is_calibrated(folder, text):
    result = prune(
        asked(
            folder,
            sparsity=0.5,
            calibration=text,
            method="paper",
            samples=3,
            length=30,
            activations=ActivationScale.TENSOR,
        )
    )
    inputs = []
    layer = result.layers[-1]
    module = result.checkpoint.model.get_submodule(layer.name)
    module.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    with torch.no_grad():
        result.checkpoint.model(input_ids=result.samples)
    assert layer.activation_scale is not None
    assert layer.activation_scale.item() == pytest.approx(inputs[0].abs().max().item() / 127, rel=1e-4)
    assert pack_one(layer).activation_scale == layer.activation_scale.item()


def test_narrow_macros_get_narrow_integers(folder, text):
    config = replace(PRESETS["flexcim"], weight_bits=4, activation_bits=4)
    result = prune(asked(folder, sparsity=0.5, calibration=text, method="paper", samples=2, length=16, config=config))
    layer = result.layers[0]
    assert layer.integers()[0].abs().max() == 7
    assert np.abs(result.activations([layer.name], 8)[layer.name]).max() == 7
    assert pack_one(layer).tiling.config == config


def test_the_dense_menu_only_quantises(folder, text):
    result = prune(asked(folder, sparsity=0, calibration=text, samples=2, length=16, config=PRESETS["dense"]))
    assert {str(layer.pattern) for layer in result.layers} == {"1:1"}
    assert result.sparsity == 0


def test_progress_counts_up_to_the_end(folder, text, other):
    steps = []
    prune(
        asked(
            folder,
            sparsity=0.5,
            calibration=text,
            evaluation=other,
            samples=2,
            length=16,
        ),
        progress=lambda *step: steps.append(step),
    )
    assert [done for _, done, _ in steps] == list(range(len(steps)))
    assert steps[0] == ("loading the model", 0, 1)
    assert {total for _, _, total in steps[1:]} == {len(steps)}
    assert [name for name, _, _ in steps][-6:] == [
        "choosing the patterns",
        "pruning block 1 of 3",
        "pruning block 2 of 3",
        "pruning block 3 of 3",
        "evaluating the pruned model",
        "evaluating the quantized model",
    ]


def test_each_text_is_read_and_tokenised_once(folder, text, other, monkeypatch):
    read, tokenised = [], []

    def reading(path):
        read.append(path)
        return read_text(path)

    def tokenising(words, tokenizer):
        tokenised.append(words)
        return tokenize(words, tokenizer)

    monkeypatch.setattr(pruner, "read_text", reading)
    monkeypatch.setattr(calibration, "read_text", reading)
    monkeypatch.setattr(windows, "tokenize", tokenising)
    options = {"calibration": text, "evaluation": other, "method": "uniform", "samples": 2, "length": 16}
    assert prune(asked(folder, sparsity=0.5, recover=1, **options)).evaluations is not None
    assert sorted(read) == sorted([text, other])
    assert sorted(tokenised) == sorted([TEXT, OTHER_TEXT])


def test_options_that_do_not_fit_are_refused(folder, text, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("0123456789")
    with pytest.raises(SelectionError, match=r"^sparsity 0\.8 is out of reach for this menu and model, the nearest is"):
        prune(asked(folder, sparsity=0.8, calibration=text))
    with pytest.raises(SelectionError, match=r"^sparsity must be between 0 and 1, not -0\.5$"):
        prune(asked(folder, sparsity=-0.5, calibration=text))
    with pytest.raises(TextError, match=r"^the calibration text has 10 tokens, fewer than the 11 of one sample$"):
        prune(asked(folder, sparsity=0.5, calibration=short, length=11))
    with pytest.raises(TextError, match=r"missing: cannot be read"):
        prune(asked(folder, sparsity=0.5, calibration=text, evaluation=tmp_path / "missing"))


def test_the_default_method_updates_what_it_keeps(folder, text, other, result):
    measured = prune(asked(folder, sparsity=TARGET, calibration=text, evaluation=other, samples=5, length=40, seed=7))
    assert (
        measured.request.source,
        measured.treatment.score,
        measured.treatment.update,
    ) == ("measured", "obs", Update.LSQ)
    assert measured.sparsity >= TARGET
    assert measured.selection is not None
    assert len(measured.selection.assignment.choices) == len(measured.layers)
    assert {of_layer.damping for of_layer in measured.numerics.values()} == {0.01}
    model = measured.checkpoint.model
    for layer in measured.layers:
        weight = model.get_submodule(layer.name).weight.detach()
        assert not weight[~nm_mask(weight.abs(), layer.pattern)].any()
    assert measured.evaluations is not None
    # The text is what it was calibrated on, so that the better treatment shows even on random models.
    assert measured.evaluations.pruned.nats != result.evaluations.pruned.nats
    assert result.treatment.update is Update.NONE
    assert {of_layer.damping for of_layer in result.numerics.values()} == {None}


def test_a_budget_of_cycles_is_kept(folder, text):
    config = PRESETS["board"]
    budget = CycleBudget(0.7, config, 16)
    found = prune(asked(folder, budget=budget, calibration=text, config=config, method="uniform", samples=2, length=16))
    dense = sum(budget.takes(layer.tiling.outputs, layer.tiling.inputs, Pattern(1, 1)) for layer in found.layers)
    taken = sum(budget.takes(layer.tiling.outputs, layer.tiling.inputs, layer.pattern) for layer in found.layers)
    assert found.selection is not None
    assert taken == found.selection.assignment.used <= 0.7 * dense
    assert found.target is None


def test_blocks_can_share_a_pattern(folder, text):
    found = prune(
        asked(
            folder,
            sparsity=0.5,
            calibration=text,
            method="owl",
            granularity=Granularity.BLOCK,
            samples=2,
            length=16,
        )
    )
    for block in {layer.block for layer in found.layers}:
        assert len({layer.pattern for layer in found.layers if layer.block == block}) == 1


# -- errors told apart, and scales from percentiles --------------------------------------------------------------------


@pytest.mark.parametrize("activations", ActivationScale)
def test_the_dense_model_in_integers_tells_both_errors_apart(folder, text, other, tmp_path, activations):
    options = {"calibration": text, "evaluation": other, "samples": 3, "length": 24}
    # Nothing is pruned, so that what is left is quantisation alone.
    result = prune(asked(folder, sparsity=0.0, method="uniform", activations=activations, **options))
    assert {str(layer.pattern) for layer in result.layers} == {"1:1"}
    found = result.evaluations
    assert found is not None
    assert found.pruned.bits_per_byte == found.dense.bits_per_byte
    assert found.quantized.bits_per_byte == found.dense_quantized.bits_per_byte != found.dense.bits_per_byte
    write_result(tmp_path / "result", result)
    report = json.loads((tmp_path / "result" / "report.json").read_text())
    assert list(report["evaluation"]) == ["dense", "dense_quantized", "pruned", "recovered", "quantized"]
    assert report["search"] is report["recovery"] is report["evaluation"]["recovered"] is None


def test_scales_of_activations_come_from_a_percentile(folder, text):
    def scales(percentile):
        result = prune(
            asked(
                folder,
                sparsity=0.5,
                calibration=text,
                method="uniform",
                samples=3,
                length=24,
                activations=ActivationScale.TENSOR,
                activation_percentile=percentile,
            )
        )
        scaled = [(layer.name, layer.activation_scale) for layer in result.layers]
        return {name: scale.item() for name, scale in scaled if scale is not None}, result

    largest, result = scales(100.0)
    clipped, _ = scales(90.0)
    assert largest.keys() == {layer.name for layer in result.layers}
    assert all(clipped[name] < largest[name] for name in largest)
    # The pruned model itself: what its first layer really sees.
    layer = result.layers[0].layer
    seen: list[torch.Tensor] = []
    handle = layer.watch(lambda inputs: seen.append(inputs.detach()))
    with torch.no_grad():
        result.checkpoint.model(input_ids=result.samples)
    handle.remove()
    exact = torch.quantile(torch.cat(seen).abs().flatten(), 0.9, interpolation="higher").item() / 127
    assert exact <= clipped[layer.name] * (1 + 1e-5) <= exact * (1 + 1 / 512 + 2e-5)
