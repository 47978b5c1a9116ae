"""A nested run from two folders to one: killed and resumed, and out of reach."""

from __future__ import annotations

import json
import os

import pytest

import flexcim_flow.nest.weights
from flexcim_flow.nest import nester
from flexcim_flow.prune.folder import FolderError
from tests.support.nested_models import nested
from tests.support.tiny_models import OTHER_TEXT


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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_cannot_be_written_is_told(pruned, text, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(FolderError, match=r"locked/out: cannot be written \(Permission denied\)"):
        nested(pruned, text, locked / "out")
