"""Checkpoints: what is read comes back unchanged, and every way in which a folder can be wrong."""

from __future__ import annotations

import json
import os
import socket

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BertConfig, BertForQuestionAnswering, T5Config

from flexcim.quiet import quiet
from flexcim_flow.model.checkpoint import CheckpointError, load_checkpoint
from tests.support.tiny_models import save_tiny, tiny_llama, tiny_mamba2

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("llama"), tiny_llama(), torch.float16)


@pytest.fixture
def broken(llama, tmp_path):
    """A copy of the Llama, to be broken."""
    for path in llama.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def edit_tensors(folder, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("build", [tiny_llama, tiny_mamba2])
def test_a_checkpoint_comes_back_bit_for_bit_in_its_dtype(build, dtype, tmp_path):
    source = save_tiny(tmp_path / "source", build(), dtype)
    checkpoint = load_checkpoint(source)
    assert checkpoint.name == "source"
    assert checkpoint.model.dtype == torch.float32
    assert not checkpoint.model.training
    checkpoint.save(tmp_path / "copy")
    assert checkpoint.model.dtype == torch.float32
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "copy" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    with quiet():
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "copy", dtype="auto")
    assert plain.dtype == dtype
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        assert json.loads((source / name).read_text()) == json.loads((tmp_path / "copy" / name).read_text())
    assert len({path.stat().st_mode for path in (tmp_path / "copy").iterdir()}) == 1
    again = load_checkpoint(tmp_path / "copy").tokenizer
    assert again is not None
    assert checkpoint.tokenizer is not None
    assert again("é")["input_ids"] == checkpoint.tokenizer("é")["input_ids"]


def test_nothing_touches_the_network_or_the_terminal(llama, tmp_path, monkeypatch, capfd):
    def refuse(*arguments: object) -> None:
        raise AssertionError(f"a connection to {arguments} was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_checkpoint(llama).save(tmp_path / "copy")
    assert capfd.readouterr() == ("", "")


def test_the_context_is_known_if_the_model_has_one(llama, tmp_path):
    assert load_checkpoint(llama).context == 64
    assert load_checkpoint(save_tiny(tmp_path, tiny_mamba2())).context is None


def test_names_that_are_no_folder_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"^no/model: there is no such folder \(checkpoints are read from local"):
        load_checkpoint("no/model")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"file: is a file, but a checkpoint is a folder$"):
        load_checkpoint(tmp_path / "file")
    with pytest.raises(CheckpointError, match=r"has no config\.json, so it is no checkpoint in Hugging Face format$"):
        load_checkpoint(tmp_path)


def test_a_config_that_is_no_json_is_refused(broken):
    (broken / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: is no JSON \("):
        load_checkpoint(broken)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_config_that_may_not_be_read_is_refused(broken):
    (broken / "config.json").chmod(0)
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read \(Permission denied\)$"):
        load_checkpoint(broken)


def test_an_unknown_kind_of_model_is_refused(broken):
    edit_config(broken, model_type="abacus")
    with pytest.raises(CheckpointError, match=r"its config\.json cannot be loaded \(.*abacus"):
        load_checkpoint(broken)


def test_models_of_other_kinds_are_refused(tmp_path):
    T5Config(architectures=["T5ForConditionalGeneration"]).save_pretrained(tmp_path / "t5")
    with pytest.raises(CheckpointError, match=r"t5: T5ForConditionalGeneration is no causal or masked language model"):
        load_checkpoint(tmp_path / "t5")
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    with quiet():
        BertForQuestionAnswering(config).save_pretrained(tmp_path / "bert")
    # transformers has a masked model for this configuration, but the checkpoint is of another one.
    with pytest.raises(CheckpointError, match=r"bert: BertForQuestionAnswering is no .* and no image classifier$"):
        load_checkpoint(tmp_path / "bert")


def test_missing_weights_are_refused(broken):
    edit_tensors(broken, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(
        CheckpointError, match=r": model\.layers\.1\.mlp\.up_proj\.weight is missing among its weights$"
    ):
        load_checkpoint(broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r": its weights cannot be loaded \(.+\)$"):
        load_checkpoint(broken)


def test_weights_of_the_wrong_shape_are_refused(broken):
    edit_config(broken, intermediate_size=40)
    place = r"model\.layers\.0\.mlp\.down_proj\.weight"
    with pytest.raises(
        CheckpointError, match=rf": {place} has shape \[24, 44\], but its config\.json makes it \[24, 40\]$"
    ):
        load_checkpoint(broken)


def test_weights_that_are_quantised_are_refused(broken):
    edit_config(broken, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(
        CheckpointError, match=r": its weights are quantised already, but only plain ones can be pruned$"
    ):
        load_checkpoint(broken)


def test_a_cut_off_file_is_refused(broken):
    content = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(CheckpointError, match=r": its weights cannot be loaded \(.+\)$"):
        load_checkpoint(broken)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(broken, value):
    edit_tensors(broken, lambda tensors: tensors["model.layers.2.self_attn.o_proj.weight"][3, 4:5].fill_(value))
    name = r"model\.layers\.2\.self_attn\.o_proj\.weight"
    with pytest.raises(CheckpointError, match=rf": {name} holds values that are not finite$"):
        load_checkpoint(broken)


def test_a_missing_tokenizer_is_refused(broken):
    for path in broken.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r": its tokenizer cannot be loaded \(.+\)$"):
        load_checkpoint(broken)
