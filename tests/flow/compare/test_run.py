"""A comparison from a checkpoint to a folder: it goes on after its end, and replaces its like only."""

from __future__ import annotations

import json

import pytest

from flexcim.cli import main
from flexcim_flow.compare import comparison
from flexcim_flow.prune.pruner import prune
from tests.support.comparisons import words

pytestmark = pytest.mark.torch


def test_a_run_goes_on_after_its_end_and_an_earlier_result_is_replaced(inputs, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    chosen = ("--methods", "uniform", "--sparsities", "0.25,0.5")
    calls = []

    def counted(request):
        calls.append(request.budget.sparsity)
        if calls == [0.25, 0.5]:
            raise KeyboardInterrupt
        return prune(request)

    monkeypatch.setattr(comparison, "prune", counted)
    assert main(words(inputs, output, *chosen)) == 130
    assert not output.exists()
    assert main(words(inputs, output, *chosen)) == 0
    assert calls == [0.25, 0.5, 0.5]
    assert main(words(inputs, output, "--methods", "owl", "--sparsities", "0.5")) == 0
    assert [row["method"] for row in json.loads((output / "comparison.json").read_text())["rows"]] == ["owl"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert "owl" in capsys.readouterr().out


def test_other_peoples_folders_are_left_alone(inputs, tmp_path, capsys):
    (tmp_path / "thesis.tex").touch()
    assert main(words(inputs, tmp_path)) == 2
    assert capsys.readouterr().err.endswith(
        "holds 'thesis.tex', which is no earlier comparison, so it is not replaced\n"
    )
    assert main(words(inputs, tmp_path / "thesis.tex")) == 2
    assert capsys.readouterr().err.endswith("thesis.tex: is a file, so no folder can be written there\n")
