"""The folder that pruning leaves: it loads elsewhere, replaces its like, and is there as a whole or not at all."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from flexcim.config.pattern import Pattern
from flexcim.packed.tiling import tile_layer
from flexcim.quiet import quiet
from flexcim_flow.measure.evaluation import evaluate
from flexcim_flow.prune.folder import NESTED_FORMAT, FolderError, check_replaceable, write_result
from flexcim_flow.samples.text import tokenize
from tests.support.tiny_models import OTHER_TEXT, byte_tokenizer

pytestmark = pytest.mark.torch


def test_the_written_checkpoint_loads_in_plain_transformers(result, written):
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(written / "checkpoint", dtype="auto")
    assert model.dtype == torch.float16
    for name, tensor in result.checkpoint.model.state_dict().items():
        assert torch.equal(model.state_dict()[name].float(), tensor)
    tokens = tokenize(OTHER_TEXT, byte_tokenizer())
    again = evaluate(model.float().eval(), tokens, len(OTHER_TEXT.encode()), 40)
    assert again.bits_per_byte == pytest.approx(result.evaluations.pruned.bits_per_byte, rel=1e-6)


def test_an_earlier_result_is_replaced_and_anything_else_is_not(result, tmp_path):
    target = tmp_path / "deep" / "result"
    write_result(target, result)
    check_replaceable(target, tmp_path)
    write_result(target, result)
    assert sorted(path.name for path in target.parent.iterdir()) == ["result"]
    # So is a result of nesting.
    report = (target / "report.json").read_text()
    (target / "report.json").write_text(json.dumps({"format": NESTED_FORMAT}))
    check_replaceable(target, tmp_path)
    (target / "report.json").write_text(report)
    (target / "notes.txt").touch()
    with pytest.raises(FolderError, match=r"result: holds 'notes\.txt', which is no result of flexcim prune or nest, "):
        check_replaceable(target, tmp_path)
    (target / "notes.txt").unlink()
    with pytest.raises(FolderError, match=r"result: holds the checkpoint .*checkpoint that is to be pruned, so it is"):
        check_replaceable(target, target / "checkpoint")
    (target / "report.json").write_text("{}")
    with pytest.raises(FolderError, match=r"result: holds 'checkpoint', which is no result of flexcim prune or nest"):
        check_replaceable(target, tmp_path)
    with pytest.raises(FolderError, match=r"report\.json: is a file, so no folder can be written there$"):
        check_replaceable(target / "report.json", tmp_path)
    (tmp_path / "empty").mkdir()
    check_replaceable(tmp_path / "empty", tmp_path / "model")
    check_replaceable(tmp_path / "absent", tmp_path / "model")


def test_nothing_is_left_of_a_result_that_cannot_be_written(result, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match=r"result: cannot be written \(Not a directory\)$"):
        write_result(tmp_path / "file" / "result", result)
    sparser = tile_layer(result.config, result.layers[0].tiling.outputs, result.layers[0].tiling.inputs, Pattern(1, 4))
    unpackable = replace(result, layers=(replace(result.layers[0], tiling=sparser),))
    target = tmp_path / "result"
    with pytest.raises(ValueError, match=r"output \d+, block \d+ holds"):
        write_result(target, unpackable)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
