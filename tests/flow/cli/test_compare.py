"""``flexcim compare`` as a user calls it."""

from __future__ import annotations

import csv
import json

import pytest

from flexcim.cli import main
from flexcim_flow.compare import comparison
from tests.support.comparisons import comparison_inputs, words
from tests.support.tiny_models import OTHER_TEXT

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A model, a text to calibrate on, one to measure on, and questions."""
    return comparison_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--methods", "measured,wanda"),
            "--methods: method must be one of measured, paper, uniform, owl, not 'wanda'",
        ),
        (("--updates", "all"), "--updates must be one of none, lsq, obs, not 'all'"),
        (("--sparsities", "0.5,half"), "--sparsities must be numbers with commas between them, not '0.5,half'"),
        (("--seeds", "1.5"), "--seeds must be numbers with commas between them, not '1.5'"),
        (("--methods", ""), "a comparison needs at least one method, one sparsity and one seed"),
        (("--sparsities", "0.5,0.5"), "measured at 0.5, seed 0 is asked for twice"),
        (("--sparsities", "0.5,nan"), "sparsity must be between 0 and 1, not nan"),
        (("--seeds", "0,-1"), f"a seed must be between 0 and {2**64 - 1}, not -1"),
        (("--seeds", f"{2**64}"), f"a seed must be between 0 and {2**64 - 1}, not {2**64}"),
        (("--vectors", "0"), "a comparison counts cycles for at least one vector, not 0"),
        (("--device", "meta"), "device meta cannot be used (it keeps the shapes of tensors, but no values)"),
    ],
)
def test_bad_options_are_refused(inputs, options, message, tmp_path, capsys):
    # Also where another run waits to be finished, which would be a reason of its own.
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "run.json").write_text("{}")
    assert main(words(inputs, tmp_path / "out", *options)) == 2
    assert capsys.readouterr().err == f"flexcim: {message}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]


def test_what_is_out_of_reach_is_refused_before_anything_is_measured(inputs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(comparison, "evaluate", lambda *arguments: pytest.fail("measured"))
    assert main(words(inputs, tmp_path / "out", "--methods", "uniform", "--sparsities", "0.5,0.99")) == 2
    assert capsys.readouterr().err == (
        "flexcim: sparsity 0.99 is out of reach for this menu and model, the nearest is 0.75\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_what_a_method_drops_beyond_what_was_asked_for_is_told_once(inputs, tmp_path, capsys):
    chosen = ("--methods", "owl,measured", "--updates", "none,lsq", "--sparsities", "0.7")
    assert main(words(inputs, tmp_path / "out", *chosen)) == 0
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"]
    sparsity = {row["method"]: row["sparsity_chosen"] for row in rows}
    assert sparsity["owl"] > 0.71 >= sparsity["measured"] >= 0.7
    told = [line for line in capsys.readouterr().out.splitlines() if " asked for, as " in line]
    assert told == [
        f"owl drops {sparsity['owl']:.1%} of the weights, more than the 70.0% asked for, as its patterns share one m, "
        "and it takes those nearest to the densities that it wants within the budget"
    ]


def test_a_single_window_and_a_single_question_have_no_standard_error(inputs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")  # a narrow terminal would cut the table
    model, text, _, questions = inputs
    window = tmp_path / "window.txt"
    window.write_text(OTHER_TEXT[:30], encoding="utf-8")
    output = tmp_path / "out"
    assert main(words((model, text, window, questions), output, "--methods", "uniform", "--sparsities", "0.5")) == 0
    out = capsys.readouterr().out
    assert "nan" not in out
    cells = next(line.split("│") for line in out.splitlines() if "uniform" in line)
    assert cells[8].strip() == "–"
    assert cells[-2].strip().endswith("% ± –")
    with open(output / "comparison.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["standard_error"] == row["accuracy_standard_error"] == ""
    assert float(row["loss_added"])
    assert json.loads((output / "comparison.json").read_text())["rows"][0]["standard_error"] is None
