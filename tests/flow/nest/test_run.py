"""A nested run from two folders to one: killed and resumed, and out of reach."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import flexcim_flow.nest.weights
from flexcim_flow.model.checkpoint import load_checkpoint
from flexcim_flow.nest import nester
from flexcim_flow.nest.run import nest_to
from flexcim_flow.prune.folder import FolderError
from tests.support.nested_models import nest_request, nested
from tests.support.tiny_models import OTHER_TEXT

pytestmark = pytest.mark.torch


def test_a_killed_run_goes_on_and_gives_the_same_bytes(pruned, text, tmp_path, monkeypatch):
    whole = nested(pruned, text, tmp_path / "whole", share=0.5)
    calls = []

    def killed(*arguments, **options):
        calls.append(arguments)
        if len(calls) == len(whole.layers) - 1:  # in the last block
            raise KeyboardInterrupt
        return kept(*arguments, **options)

    kept = flexcim_flow.nest.weights.nest
    monkeypatch.setattr(nester, "nest", killed)
    with pytest.raises(KeyboardInterrupt):
        nested(pruned, text, tmp_path / "out", share=0.5)
    assert (tmp_path / "out.partial").is_dir()
    nested(pruned, text, tmp_path / "out", share=0.5)
    files = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()]
    assert len(files) > 5
    for file in files:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "out" / file).read_bytes(), file
    assert not (tmp_path / "out.partial").exists()


def test_a_text_of_one_window_has_no_standard_error(pruned, text, tmp_path):
    window = tmp_path / "window.txt"
    window.write_text(OTHER_TEXT[:30], encoding="utf-8")
    nested(pruned, text, tmp_path / "out", evaluation=window)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["evaluation"]["sparser"]["standard_error"] is None


def test_a_place_that_cannot_be_written_is_told(pruned, text, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match=r"file/out: cannot be written \(Not a directory\)$"):
        nested(pruned, text, tmp_path / "file" / "out")


def test_a_nested_model_takes_the_place_of_a_pruned_one_and_says_what_it_is(pruned, text, tmp_path):
    output = Path(shutil.copytree(pruned[1], tmp_path / "out"))
    assert json.loads((output / "report.json").read_text())["format"] == "flexcim pruned model"
    nested(pruned, text, output)
    assert json.loads((output / "report.json").read_text())["format"] == "flexcim nested model"
    assert sorted(path.name for path in output.iterdir()) == ["checkpoint", "packed", "report.json"]
    nested(pruned, text, output, samples=2)
    assert json.loads((output / "report.json").read_text())["calibration"]["samples"] == 2


def test_steps_are_counted_to_the_end_and_both_models_are_on_the_device(pruned, text, tmp_path, monkeypatch):
    devices, steps = [], []

    def loading(folder, *, streamed, device):
        devices.append(device)
        return load_checkpoint(folder, streamed=streamed, device=device)

    monkeypatch.setattr(nester, "load_checkpoint", loading)
    other = tmp_path / "other.txt"
    other.write_text(OTHER_TEXT[:200], encoding="utf-8")
    request = nest_request(text, *pruned, evaluation=other, device="cpu:0")
    nest_to(tmp_path / "out", request, progress=lambda *step: steps.append(step))
    assert devices == [torch.device("cpu:0")] * 2
    assert steps[0] == ("loading the models", 0, 1)
    assert steps[-1] == ("packing and writing", 1, 1)
    assert [done for _, done, _ in steps[:-1]] == list(range(len(steps) - 1))
    assert {total for _, _, total in steps[1:-1]} == {len(steps) - 1}
    assert [name for name, _, _ in steps[1:4]] == [
        "evaluating the dense model",
        "nesting block 1 of 3",
        "nesting block 2 of 3",
    ]
