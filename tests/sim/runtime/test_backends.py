"""Backends: the same sums and the same text from PyTorch, the golden accelerator and the simulated RTL."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flexcim.cli import main
from flexcim.config.pattern import Pattern
from flexcim.packed.cells import pack_layer
from flexcim.packed.folder import write_packed
from flexcim.packed.layer import PackedLayer
from flexcim.packed.model import PackedModel
from flexcim.packed.tiling import LayerTiling
from flexcim_flow.layer.quantization import QuantizedLinear, quantize_weights
from flexcim_flow.model.blocks import find_blocks
from flexcim_sim.build.library import build_accelerator_library
from flexcim_sim.runtime.backends import (
    Backend,
    BackendError,
    CheckedBackend,
    GoldenBackend,
    TorchBackend,
    VerilatorBackend,
)
from flexcim_sim.runtime.driver import SimulatedAccelerator
from flexcim_sim.runtime.model import BackendLinear, RuntimeModelError, load_pruned
from tests.flexcim.compiler.test_model import SHAPES, packed_model
from tests.sim.runtime.test_driver import SMALL
from tests.support.model_families import tiny_family
from tests.support.tiny_models import save_tiny, tiny_llama, tiny_mamba2

pytestmark = pytest.mark.torch

MODELS = {"llama": tiny_llama, "mamba2": tiny_mamba2}


def write_pruned(folder, model):
    """A checkpoint, and its block layers packed as dense ones, as ``flexcim prune`` lays them out."""
    layers = []
    for block in find_blocks(model):
        for layer in block.layers:
            integers, scales = quantize_weights(layer.weight)
            tiling = LayerTiling(SMALL.macro, *layer.shape, Pattern(1, 1), 1, "a test")
            weights, offsets = pack_layer(tiling, integers.numpy())
            layers.append(
                PackedLayer(
                    name=layer.name,
                    tiling=tiling,
                    activation_scale=None,
                    weight_scales=scales.numpy(),
                    weights=weights,
                    offsets=offsets,
                )
            )
    write_packed(folder / "packed", PackedModel(SMALL.macro, {}, layers))
    save_tiny(folder / "checkpoint", model)
    SMALL.to_toml(folder / "small.toml")
    return folder


@pytest.mark.parametrize("vectors", [1, 19])
def test_all_backends_give_the_integer_product(vectors):
    rng = np.random.default_rng([141, vectors])
    model, matrices = packed_model(SMALL.macro, SHAPES, rng)
    with SimulatedAccelerator(SMALL, build_accelerator_library(SMALL)) as rtl:
        backends = [TorchBackend(model), GoldenBackend(model, SMALL), VerilatorBackend(model, rtl)]
        for shape in SHAPES:
            activations = rng.integers(-128, 128, (vectors, shape.inputs)).astype(np.int8)
            product = activations.astype(np.int64) @ matrices[shape.name].T.astype(np.int64)
            for backend in backends:
                sums = backend.multiply(shape.name, activations)
                assert sums.dtype == np.int32
                assert (sums == product).all()


@pytest.mark.parametrize("name", MODELS)
def test_the_same_text_from_each_backend(name, tmp_path, capsys):
    folder = write_pruned(tmp_path, MODELS[name]())
    texts = []
    for backend in ("torch", "golden", "verilator"):
        arguments = ["--model", str(folder), "--prompt", "In the", "--tokens", "4", "--backend", backend]
        assert main(["generate-text", *arguments, "--config", str(folder / "small.toml")]) == 0
        out, err = capsys.readouterr()
        texts.append(out)
        assert ("all equal" in err) == (backend != "torch")
        assert ("as many as the cycle model says" in err) == (backend == "verilator")
    assert texts[0].startswith("In the")
    assert len(set(texts)) == 1


def test_a_layer_computes_as_the_pruner_says_that_the_hardware_does():
    """The bits of the pruner's own quantised layer, which was written apart from this one."""
    rng = np.random.default_rng(142)
    model, matrices = packed_model(SMALL.macro, SHAPES[:1], rng)
    matrix = torch.from_numpy(matrices["a"])
    scales, bias = torch.rand(len(matrix)), torch.randn(len(matrix))
    inputs = torch.randn(2, 5, matrix.shape[1]) * 3
    inputs[0, 1] = 0
    for scale in (None, 0.037):
        ours = BackendLinear("a", TorchBackend(model), scales, bias, activation_bits=8, activation_scale=scale)
        theirs = QuantizedLinear(matrix, scales, bias, activation_scale=None if scale is None else torch.tensor(scale))
        assert torch.equal(ours(inputs), theirs(inputs))


class WrongBackend(Backend):
    """One sum is wrong by 1."""

    def __init__(self, right):
        self._right = right

    def multiply(self, name, activations):
        sums = self._right.multiply(name, activations)
        sums[1, 2] += 1
        return sums


def test_a_wrong_sum_is_told():
    model, _ = packed_model(SMALL.macro, SHAPES, np.random.default_rng(143))
    right = TorchBackend(model)
    checked = CheckedBackend(WrongBackend(right), right)
    with pytest.raises(BackendError, match="layer 'a': output 2 of vector 1 is 1, but must be 0"):
        checked.multiply("a", np.zeros((3, 40), np.int8))


def test_what_is_no_pruned_model_is_told(tmp_path):
    model, _ = packed_model(SMALL.macro, SHAPES, np.random.default_rng(144))
    write_packed(tmp_path / "packed", model)
    with pytest.raises(RuntimeModelError, match="holds no checkpoint, which flexcim prune writes"):
        load_pruned(tmp_path)
    save_tiny(tmp_path / "checkpoint", tiny_llama())
    with pytest.raises(RuntimeModelError, match="layer 'a' of the packed model is no module of the model"):
        load_pruned(tmp_path).run_on(TorchBackend(model))
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    with pytest.raises(RuntimeModelError, match="is no causal language model with a tokenizer"):
        load_pruned(tmp_path)


def test_a_layer_of_another_shape_and_an_empty_prompt_are_told(tmp_path):
    folder = write_pruned(tmp_path, tiny_llama())
    pruned = load_pruned(folder)
    with pytest.raises(RuntimeModelError, match="the prompt has no token"):
        pruned.generate("", 3)
    name = next(iter(pruned.packed.tilings))
    setattr(pruned.model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], torch.nn.Linear(3, 5))
    with pytest.raises(RuntimeModelError, match=r"is packed as 24 x 24, but the model has Linear \[5, 3\] there"):
        pruned.run_on(TorchBackend(pruned.packed))


def generate_words(folder, prompt, tokens, backend="verilator"):
    words = ["--model", str(folder), "--prompt", prompt, "--tokens", str(tokens), "--backend", backend]
    return ["generate-text", *words, "--config", str(folder / "small.toml")]


def test_a_text_that_outgrows_the_context_is_refused_before_the_work(tmp_path, capsys, monkeypatch):
    folder = write_pruned(tmp_path, tiny_llama())
    monkeypatch.setattr("flexcim_sim.cli.generate_text._simulated", None)
    assert main(generate_words(folder, "In the", 59)) == 2
    said = "the prompt's 6 tokens and the 59 to write are 65 together, but the model's context is 64"
    assert capsys.readouterr() == ("", f"flexcim: {said}\n")
    assert main(generate_words(folder, "In the", 58, "torch")) == 0


def test_a_model_without_a_context_writes_on(tmp_path):
    pruned = load_pruned(write_pruned(tmp_path, tiny_mamba2()))
    assert pruned.prompt_ids("In the", 100_000).shape == (1, 6)


@pytest.mark.parametrize(("family", "name"), [("bert", "BertForMaskedLM"), ("vit", "ViTForImageClassification")])
def test_a_model_that_does_not_predict_the_next_token_is_refused(family, name, tmp_path, capsys):
    folder = write_pruned(tmp_path, tiny_family(family))
    assert main(generate_words(folder, "In the", 4, "torch")) == 2
    said = f"{folder / 'checkpoint'}: {name} does not predict the next token, so it cannot write text"
    assert capsys.readouterr() == ("", f"flexcim: {said}\n")


def test_a_prompt_that_is_no_utf_8_is_refused(tmp_path, capsys):
    folder = write_pruned(tmp_path, tiny_llama())
    prompt = b"In \xff".decode("utf-8", "surrogateescape")  # as Python reads the command line
    assert main(generate_words(folder, prompt, 4)) == 2
    said = "the prompt is no UTF-8 text: character 4 of it cannot be read"
    assert capsys.readouterr() == ("", f"flexcim: {said}\n")
