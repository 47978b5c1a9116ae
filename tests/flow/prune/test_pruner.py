"""The whole pipeline on small models of real classes: what comes out, and what lies on disk."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from flexcim.config.macro import PRESETS
from flexcim.config.pattern import Pattern
from flexcim.packed.cells import unpack_layer
from flexcim.packed.folder import read_packed
from flexcim.packed.tiling import tile_layer
from flexcim_flow.choice.budgets import CycleBudget
from flexcim_flow.choice.problem import SelectionError
from flexcim_flow.common.options import ActivationScale, Granularity, Method, Score, Update
from flexcim_flow.common.quiet import quiet
from flexcim_flow.layer.masks import nm_mask
from flexcim_flow.layer.quantization import QuantizedLinear
from flexcim_flow.measure.evaluation import evaluate
from flexcim_flow.prune.export import ExportError, check_replaceable, pack_one, write_result
from flexcim_flow.prune.pruner import prune
from flexcim_flow.samples.text import TextError, tokenize
from tests.support.prune_requests import asked
from tests.support.tiny_models import OTHER_TEXT, TEXT, byte_tokenizer, save_tiny, tiny_llama, tiny_mamba2

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MODELS = {"llama": tiny_llama, "mamba2": tiny_mamba2}
TARGET = 0.6


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A text that is none of the calibration's."""
    path = tmp_path_factory.mktemp("text") / "other.txt"
    path.write_text(OTHER_TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory):
    """A checkpoint in half precision."""
    return save_tiny(tmp_path_factory.mktemp(request.param), MODELS[request.param](), torch.float16)


@pytest.fixture(scope="module")
def result(folder, text, other):
    """What is published: the paper's choice, nothing is updated."""
    return prune(
        asked(
            folder,
            sparsity=TARGET,
            calibration=text,
            evaluation=other,
            method=Method.PAPER,
            samples=5,
            length=40,
            seed=7,
        )
    )


@pytest.fixture(scope="module")
def written(result, tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "result"
    write_result(path, result)
    return path


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


def test_packed_layers_hold_the_quantised_weights(result):
    for layer in result.layers:
        packed = pack_one(layer)
        weights = unpack_layer(packed.tiling, packed.weights, packed.offsets)
        assert np.array_equal(weights, layer.integers()[0].numpy())
        assert packed.activation_scale is None
        assert np.array_equal(packed.weight_scales, layer.integers()[1].numpy())


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


def test_the_same_seed_gives_the_same_result(result, folder, text):
    again, other = (
        prune(asked(folder, sparsity=TARGET, calibration=text, method=Method.PAPER, samples=5, length=40, seed=seed))
        for seed in (7, 8)
    )
    assert again.selection == result.selection
    assert torch.equal(again.samples, result.samples)
    assert not torch.equal(other.samples, result.samples)
    for one, two in zip(again.layers, result.layers, strict=True):
        assert torch.equal(one.integers()[0], two.integers()[0])
    assert again.evaluations is None


def test_the_written_checkpoint_loads_in_plain_transformers(result, written):
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(written / "checkpoint", dtype="auto")
    assert model.dtype == torch.float16
    for name, tensor in result.checkpoint.model.state_dict().items():
        assert torch.equal(model.state_dict()[name].float(), tensor)
    tokens = tokenize(OTHER_TEXT, byte_tokenizer())
    again = evaluate(model.float().eval(), tokens, len(OTHER_TEXT.encode()), 40)
    assert again.bits_per_byte == pytest.approx(result.evaluations.pruned.bits_per_byte, rel=1e-6)


def test_the_written_packed_model_is_that_of_the_result(result, written):
    packed = read_packed(written / "packed")
    assert packed.config == result.config
    assert packed.metadata["sparsity"] == result.sparsity
    for read, layer in zip(packed.layers, result.layers, strict=True):
        assert (read.name, read.tiling) == (layer.name, layer.tiling)
        assert np.array_equal(unpack_layer(read.tiling, read.weights, read.offsets), layer.integers()[0].numpy())


def test_the_written_plan_and_report_tell_each_layer(result, written):
    plan = tomllib.loads((written / "plan.toml").read_text(encoding="utf-8"))
    report = json.loads((written / "report.json").read_text(encoding="utf-8"))
    assert plan["sparsity"] == report["sparsity"] == result.sparsity
    assert plan["target"] == report["target"] == TARGET
    assert list(plan["layers"]) == [layer.name for layer in result.layers]
    for layer, entry in zip(result.layers, report["layers"], strict=True):
        planned = plan["layers"][layer.name]
        assert planned == {
            "pattern": str(layer.pattern),
            "chosen": str(layer.pattern),
            "sparsity": layer.sparsity,
            "cost": layer.choice.cost,
            "why": layer.choice.reason,
        }
        assert entry["groups"] == layer.tiling.groups
        assert entry["tiles"] == len(layer.tiling.tiles)
    assert (plan["method"], plan["score"], plan["update"]) == ("paper", "wanda", "none")
    assert report["budget"] == plan["budget"] == "sparsity of at least 60.00%"
    assert report["calibration"] == {"samples": 5, "length": 40, "seed": 7}
    assert report["evaluation"]["quantized"]["bits_per_byte"] == result.evaluations.quantized.bits_per_byte
    assert report["evaluation"]["dense"]["bytes"] == len(OTHER_TEXT.encode())


def test_an_earlier_result_is_replaced_and_anything_else_is_not(result, tmp_path):
    target = tmp_path / "deep" / "result"
    write_result(target, result)
    check_replaceable(target, tmp_path)
    write_result(target, result)
    assert sorted(path.name for path in target.parent.iterdir()) == ["result"]
    (target / "notes.txt").touch()
    with pytest.raises(ExportError, match=r"result: holds 'notes\.txt', which is no result of flexcim prune, so it is"):
        check_replaceable(target, tmp_path)
    (target / "notes.txt").unlink()
    with pytest.raises(ExportError, match=r"result: holds the checkpoint .*checkpoint that is to be pruned, so it is"):
        check_replaceable(target, target / "checkpoint")
    (target / "report.json").write_text("{}")
    with pytest.raises(ExportError, match=r"result: holds 'checkpoint', which is no result of flexcim prune"):
        check_replaceable(target, tmp_path)
    with pytest.raises(ExportError, match=r"report\.json: is a file, so no folder can be written there$"):
        check_replaceable(target / "report.json", tmp_path)
    (tmp_path / "empty").mkdir()
    check_replaceable(tmp_path / "empty", tmp_path / "model")
    check_replaceable(tmp_path / "absent", tmp_path / "model")


def test_nothing_is_left_of_a_result_that_cannot_be_written(result, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match=r"result: cannot be written \(Not a directory\)$"):
        write_result(tmp_path / "file" / "result", result)
    sparser = tile_layer(result.config, result.layers[0].tiling.outputs, result.layers[0].tiling.inputs, Pattern(1, 4))
    unpackable = replace(result, layers=(replace(result.layers[0], tiling=sparser),))
    target = tmp_path / "result"
    with pytest.raises(ValueError, match=r"output \d+, block \d+ holds"):
        write_result(target, unpackable)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_one_scale_for_a_whole_tensor_is_calibrated(folder, text):
    result = prune(
        asked(
            folder,
            sparsity=0.5,
            calibration=text,
            method=Method.PAPER,
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
    result = prune(
        asked(folder, sparsity=0.5, calibration=text, method=Method.PAPER, samples=2, length=16, config=config)
    )
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


def test_flow_by_default_updates_what_it_keeps(folder, text, other, result):
    measured = prune(asked(folder, sparsity=TARGET, calibration=text, evaluation=other, samples=5, length=40, seed=7))
    assert (
        measured.request.source,
        measured.treatment.score,
        measured.treatment.update,
    ) == ("measured", Score.OBS, Update.LSQ)
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
    found = prune(
        asked(folder, budget=budget, calibration=text, config=config, method=Method.UNIFORM, samples=2, length=16)
    )
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
            method=Method.OWL,
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
    result = prune(asked(folder, sparsity=0.0, method=Method.UNIFORM, activations=activations, **options))
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
                method=Method.UNIFORM,
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
