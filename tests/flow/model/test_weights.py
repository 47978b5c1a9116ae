"""Weights on disk in all the forms that checkpoints come in, and what is written back."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from flexcim.quiet import quiet
from flexcim_flow.model import checkpoint as checkpoint_module
from flexcim_flow.model.checkpoint import CheckpointError, load_checkpoint
from flexcim_flow.model.tensors import TensorFiles, write_tensors
from tests.support.model_families import tiny_family
from tests.support.tiny_models import byte_tokenizer, save_tiny, tiny_llama

pytestmark = pytest.mark.torch


def tensors_of(folder) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, read by safetensors alone."""
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def prune_half(checkpoint, folder) -> None:
    """Drop every second input of each layer, block by block, and save."""
    (folder / "work").mkdir(parents=True)
    with quiet():
        for block in checkpoint.blocks:
            with block.loaded():
                for layer in block.layers:
                    layer.weight[:, ::2] = 0
                checkpoint.settle(block)
                checkpoint.store(block, folder / "work")
        checkpoint.save(folder / "out")


def assert_pruned(before, after) -> None:
    """The layers' tensors have zeros, all else is as it was."""
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".layers.")[1].partition(".")[2] for name in changed} == {
        *(f"self_attn.{part}_proj.weight" for part in "qkvo"),
        *(f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
    }
    for name in changed:
        assert not after[name][:, ::2].any()
        assert torch.equal(after[name][:, 1::2], before[name][:, 1::2])


def test_sharded_checkpoints_are_read_and_written(tmp_path, monkeypatch):
    source = tmp_path / "source"
    with quiet():
        tiny_llama().half().save_pretrained(source, max_shard_size="20KB")
        byte_tokenizer().save_pretrained(source)
    assert len(list(source.glob("*.safetensors"))) > 2
    monkeypatch.setattr(checkpoint_module, "_SINGLE_FILE_BYTES", 0)
    prune_half(load_checkpoint(source, streamed=True), tmp_path)
    out = tmp_path / "out"
    shards = [f"model-0000{index}-of-00004.safetensors" for index in (1, 2, 3, 4)]
    assert sorted(path.name for path in out.glob("model*")) == sorted([*shards, "model.safetensors.index.json"])
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors_of(out).values())
    for name, file in index["weight_map"].items():
        assert name in load_file(out / file)
        assert (file == shards[3]) == (".layers." not in name)
    assert_pruned(tensors_of(source), tensors_of(out))
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert model.dtype == torch.float16
    assert not model.model.layers[2].mlp.down_proj.weight[:, ::2].any()


def test_pytorchs_own_files_are_read(tmp_path):
    model = tiny_llama().to(torch.bfloat16)
    source = save_tiny(tmp_path / "source", model, torch.bfloat16)
    (source / "model.safetensors").unlink()
    torch.save(model.state_dict(), source / "pytorch_model.bin")
    prune_half(load_checkpoint(source, streamed=True), tmp_path)
    assert sorted(path.name for path in (tmp_path / "out").glob("*model*")) == ["model.safetensors"]
    assert_pruned(model.state_dict(), tensors_of(tmp_path / "out"))


def test_checkpoints_of_the_bare_model_keep_their_names(tmp_path):
    with quiet():
        model = tiny_family("gpt2")
        source = save_tiny(tmp_path / "source", model)
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors_of(source).items()}
    save_file(bare, source / "model.safetensors", {"format": "pt"})
    prune_half(load_checkpoint(source, streamed=True), tmp_path)
    after = tensors_of(tmp_path / "out")
    assert after.keys() == bare.keys()
    assert not after["h.1.mlp.c_fc.weight"][::2].any()  # stored [inputs, outputs]
    with quiet():
        plain, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not plain.transformer.h[0].attn.c_attn.weight[::2].any()


@pytest.mark.parametrize("streamed", [False, True])
def test_tied_weights_stay_tied(streamed, tmp_path):
    with quiet():
        source = save_tiny(tmp_path / "source", tiny_family("llama"))
    assert "lm_head.weight" not in tensors_of(source)
    checkpoint = load_checkpoint(source, streamed=streamed)
    assert checkpoint.model.lm_head.weight is checkpoint.model.model.embed_tokens.weight
    checkpoint.save(tmp_path / "out")
    assert tensors_of(tmp_path / "out").keys() == tensors_of(source).keys()
    with quiet():
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert plain.lm_head.weight is plain.model.embed_tokens.weight


def test_experts_are_merged_and_taken_apart(tmp_path):
    with quiet():
        source = save_tiny(tmp_path / "source", tiny_family("mixtral"))
    before = tensors_of(source)
    # On disk each expert has three matrices; transformers merges them into two parameters of all experts.
    assert before["model.layers.0.block_sparse_moe.experts.3.w1.weight"].shape == (48, 32)
    checkpoint = load_checkpoint(source, streamed=True)
    layer = next(layer for layer in checkpoint.blocks[0].layers if layer.name.endswith("experts.gate_up_proj.3"))
    assert layer.shape == (96, 32)
    with checkpoint.blocks[0].loaded():
        parts = [before[f"model.layers.0.block_sparse_moe.experts.3.w{part}.weight"] for part in (1, 3)]
        assert torch.equal(layer.weight, torch.cat(parts))
    prune_half(checkpoint, tmp_path)
    after = tensors_of(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        pruned = ".experts." in name or "_proj" in name
        assert torch.equal(tensor[..., 1::2], before[name][..., 1::2])
        assert (not tensor[..., ::2].any()) == pruned


def test_a_block_that_is_not_loaded_takes_no_memory(tmp_path):
    checkpoint = load_checkpoint(save_tiny(tmp_path, tiny_llama()), streamed=True)
    block = checkpoint.blocks[1]
    with block.loaded():
        with block.loaded():
            assert not block.layers[0].weight.is_meta
        assert not block.layers[0].weight.is_meta
        block.layers[0].weight.zero_()
    assert all(parameter.is_meta for block in checkpoint.blocks for parameter in block.module.parameters())
    with block.loaded():
        assert block.layers[0].weight.any()  # what was not stored is lost


def test_an_update_is_rounded_before_it_is_used(tmp_path):
    checkpoint = load_checkpoint(save_tiny(tmp_path / "source", tiny_llama(), torch.bfloat16))
    block = checkpoint.blocks[0]
    block.layers[0].weight.fill_(1 / 3)
    checkpoint.settle(block)
    assert block.layers[0].weight[0, 0] == torch.tensor(1 / 3).to(torch.bfloat16).float()
    checkpoint.save(tmp_path / "out")
    assert tensors_of(tmp_path / "out")["model.layers.0.self_attn.q_proj.weight"].dtype == torch.bfloat16


def test_an_index_that_cannot_be_used_is_refused(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"index\.json: cannot be read as an index of weight files$"):
        TensorFiles(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    with pytest.raises(CheckpointError, match=r"its weights cannot be loaded \(gone\.safetensors: .+\)$"):
        TensorFiles(tmp_path)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="No such file or directory"):
        write_tensors(tmp_path / "gone" / "a.safetensors", {"a": torch.ones(1)})
    assert list(tmp_path.iterdir()) == []


def test_files_of_several_dtypes_keep_them(tmp_path):
    source = save_tiny(tmp_path / "source", tiny_llama(), torch.float16)
    tensors = tensors_of(source)
    wide = "model.layers.1.mlp.up_proj.weight"
    tensors |= {wide: tensors[wide].float(), "model.norm.weight": tensors["model.norm.weight"].float()}
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    prune_half(load_checkpoint(source, streamed=True), tmp_path)
    after = tensors_of(tmp_path / "out")
    assert {name: tensor.dtype for name, tensor in after.items()} == {
        name: each.dtype for name, each in tensors.items()
    }
    assert_pruned(tensors, after)
