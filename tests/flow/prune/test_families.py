"""Each family of models through the real path: found, calibrated, pruned, saved, and loaded by plain transformers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from flexcim.config.pattern import Pattern
from flexcim.quiet import quiet
from flexcim_flow.choice import measured
from flexcim_flow.choice.streamed import BENCH_BYTES
from flexcim_flow.common.options import Search
from flexcim_flow.layer.masks import nm_mask
from flexcim_flow.layer.scores import wanda_scores
from flexcim_flow.model.blocks import find_blocks
from flexcim_flow.model.checkpoint import load_checkpoint
from flexcim_flow.passes.stream import BlockStream
from flexcim_flow.prune.calibration import PruneError
from flexcim_flow.prune.pruner import prune
from flexcim_flow.prune.run import prune_to
from flexcim_flow.samples.images import ImageError
from tests.support.model_families import FAMILIES, FAMILY_LAYERS, MASK, sharp_family, tiny_family, tiny_inputs
from tests.support.prune_requests import asked
from tests.support.tiny_models import OTHER_TEXT, TEXT, save_tiny

pytestmark = pytest.mark.torch

PATTERN = Pattern(2, 4)


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def folder(family, tmp_path):
    with quiet():
        return save_tiny(tmp_path / "dense", tiny_family(family), torch.bfloat16)


def plain(family, folder, inputs):
    """What plain transformers computes, in float32, with the model in a folder; and nothing in it is new to it."""
    with quiet():
        kind = getattr(transformers, FAMILIES[family][0])
        config = transformers.AutoConfig.from_pretrained(folder)
        if family == "rwkv":
            # Halving the hidden states is of no account but for the small constant in the norms that follow.
            config.rescale_every = 0
        model, loading = kind.from_pretrained(folder, config=config, dtype=torch.float32, output_loading_info=True)
        assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        with torch.no_grad():
            return model.eval()(**{model.main_input_name: inputs}).logits


def test_the_linear_layers_of_a_block_are_found(family):
    with quiet():
        blocks = find_blocks(tiny_family(family))
    assert len(blocks) == (4 if family == "rwkv" else 2)
    for block in blocks:
        assert {layer.name.removeprefix(f"{block.name}.") for layer in block.layers} == FAMILY_LAYERS[family]


def test_a_pruned_model_survives_the_disk(family, folder, tmp_path):
    with quiet():
        checkpoint = load_checkpoint(folder, streamed=True)
        inputs = tiny_inputs(checkpoint.model)
        stream = BlockStream(checkpoint.model, checkpoint.blocks, inputs)
        for _ in checkpoint.blocks:
            stream.skip()
        assert torch.allclose(torch.cat(list(stream.answers())), plain(family, folder, inputs), atol=1e-6)
        stream.rewind()
        for block in checkpoint.blocks:
            assert all(parameter.is_meta for parameter in block.module.parameters())
            with block.loaded():
                seen = stream.measure()
                for layer in block.layers:
                    assert seen[layer.name].squares.shape == layer.shape[1:]
                    mask = nm_mask(wanda_scores(layer.weight, seen[layer.name].norms), PATTERN)
                    layer.weight.masked_fill_(~mask, 0)
                checkpoint.settle(block)
                checkpoint.store(block, tmp_path)
                stream.advance()
        checkpoint.save(tmp_path / "pruned")
        pruned = torch.cat(list(stream.answers()))
        assert torch.allclose(pruned, plain(family, tmp_path / "pruned", inputs), atol=1e-6)
        again = load_checkpoint(tmp_path / "pruned")
    for block in again.blocks:
        for layer in block.layers:
            kept = layer.weight != 0
            assert not layer.weight[~nm_mask(layer.weight.abs(), PATTERN)].any()
            assert 0.4 < kept.float().mean() < 0.6
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "pruned"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype == torch.bfloat16
        kept = after[name] != 0
        assert torch.equal(after[name][kept], tensor[kept])


def test_the_whole_pruner_takes_it(family, folder, tmp_path):
    text, other = tmp_path / "text.txt", tmp_path / "other.txt"
    text.write_text(TEXT)
    other.write_text(OTHER_TEXT)
    images = tmp_path / "images.safetensors"
    with quiet():
        model = tiny_family(family)
        if family == "vit":
            save_file({"pixel_values": tiny_inputs(model, samples=9)}, images)
        result = prune(
            asked(
                folder,
                sparsity=0.5,
                calibration=images if family == "vit" else text,
                evaluation=other if model.can_generate() else None,
                method="measured" if family in ("llama", "mixtral", "mamba", "bert", "vit") else "paper",
                samples=8,
                length=None if family == "vit" else 32,
            )
        )
    assert result.sparsity >= 0.5
    assert len(result.layers) == len(FAMILY_LAYERS[family]) * len(result.checkpoint.blocks)
    if result.evaluations is not None:
        pruned, quantized = result.evaluations.pruned.nats, result.evaluations.quantized.nats
        assert quantized == pytest.approx(pruned, rel=0.02)
        assert quantized != pruned


def test_what_an_encoder_cannot_do_is_refused(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    with quiet():
        folder = save_tiny(tmp_path / "bert", tiny_family("bert"))
    with pytest.raises(
        PruneError, match=r"^bert does not predict the next token, so it cannot be evaluated on a text$"
    ):
        prune(asked(folder, sparsity=0.5, calibration=text, evaluation=text, samples=2, length=16))
    with quiet():
        folder = save_tiny(tmp_path / "vit", tiny_family("vit"))
    save_file({"pixel_values": torch.zeros(1, 3, 8, 8)}, tmp_path / "small")
    with pytest.raises(PruneError, match=r"^vit reads images of shape \[3, 16, 16\], but those .* are \[3, 8, 8\]$"):
        prune(asked(folder, sparsity=0.5, calibration=tmp_path / "small", method="paper"))
    with pytest.raises(ImageError, match=r"text\.txt: cannot be read as a safetensors file of images"):
        prune(asked(folder, sparsity=0.5, calibration=text, method="paper"))


# -- measuring on encoders ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["bert", "masked bert", "vit"])
def encoder(request, tmp_path):
    """Options for an encoder with predictions that pruning changes; of the masked one they are at masks only."""
    family = request.param.split()[-1]
    length = None if family == "vit" else 32
    calibration = tmp_path / "calibration"
    with quiet():
        model = sharp_family(family)
        folder = save_tiny(tmp_path / family, model, mask=MASK if family != request.param else None)
    if family == "vit":
        save_file({"pixel_values": tiny_inputs(model, samples=24)}, calibration)
    else:
        calibration.write_text(TEXT)
    return asked(folder, sparsity=0.55, calibration=calibration, samples=8, length=length, seed=4)


def contents(folder) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_measured_choice_keeps_what_an_encoder_predicts(encoder, monkeypatch):
    assert encoder.chooser == "measured"
    within = tried(prune(encoder), Search.IN_MEMORY)
    monkeypatch.setattr(measured, "BENCH_BYTES", 1000)
    streamed = tried(prune(encoder), Search.STREAMED)
    # What both tried is as far from the dense model in both.
    assert streamed == {name: pytest.approx(within[name], rel=1e-4) for name in streamed}
    assert all(name.startswith("refined") for name in set(within) - set(streamed))


def tried(result, search: Search) -> dict[str, float]:
    """The trials of a result, which must be the best of them and within the budget."""
    assert result.sparsity >= 0.55
    assert result.selection.search is search
    trials = result.selection.trials
    assert any(name.startswith("uniform") for name in trials)
    assert 1e-5 < trials[result.selection.assignment.method] == min(trials.values())
    return trials


@pytest.mark.parametrize("limit", [BENCH_BYTES, 1000], ids=["in memory", "streamed"])
def test_an_interrupted_run_on_an_encoder_gives_the_same_bytes(encoder, limit, tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "BENCH_BYTES", limit)
    prune_to(tmp_path / "whole", encoder)

    def interrupt(name: str, done: int, total: int) -> None:
        if name == "pruning block 2 of 2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune_to(tmp_path / "resumed", encoder, progress=interrupt)
    assert (tmp_path / "resumed.partial").exists()
    with monkeypatch.context() as patched:
        idle = replace(encoder.selector, choose=lambda *arguments: pytest.fail("chosen twice"))
        patched.setattr(type(encoder), "selector", idle)
        prune_to(tmp_path / "resumed", encoder)
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")
