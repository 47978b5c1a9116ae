"""Comparisons: each row is what pruning by itself gives, files and plots are written, and bad input is refused."""

from __future__ import annotations

import csv
import json

import pytest

from flexcim.cli import main
from flexcim.config.macro import PRESETS
from flexcim.config.pattern import Pattern
from flexcim_flow.choice.budgets import CycleBudget
from flexcim_flow.common.options import Method, Update
from flexcim_flow.compare import comparison
from flexcim_flow.compare.comparison import ComparisonError, ComparisonRequest, compare, ways_of
from flexcim_flow.measure.evaluation import added_loss
from flexcim_flow.prune.pruner import prune
from tests.support.prune_requests import asked
from tests.support.tiny_models import OTHER_TEXT, TEXT, save_tiny, tiny_llama

QUESTION = {"context": "In the beginning was ", "choices": ["the word", "all"], "answer": 0}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A model, a text to calibrate on, one to measure on, and questions."""
    folder = tmp_path_factory.mktemp("inputs")
    model = save_tiny(folder / "model", tiny_llama())
    paths = folder / "text.txt", folder / "other.txt", folder / "questions.jsonl"
    for path, text in zip(paths, (TEXT, OTHER_TEXT[:600], json.dumps(QUESTION)), strict=True):
        path.write_text(text, encoding="utf-8")
    return model, *paths


def words(inputs, output, *more):
    model, text, other, questions = inputs
    options = ["--calibration", text, "--evaluate", other, "--questions", questions, "--samples", 4, "--length", 32]
    return ["compare", *map(str, [model, "-o", output, *options, *more])]


@pytest.fixture(scope="module")
def written(inputs, tmp_path_factory):
    """What the command writes."""
    output = tmp_path_factory.mktemp("out") / "comparison"
    chosen = ("--methods", "uniform,paper", "--updates", "none,lsq", "--sparsities", "0.5,0.25", "--seeds", "3")
    assert main(words(inputs, output, *chosen)) == 0
    return output


def test_each_row_is_what_pruning_by_itself_gives(inputs, written):
    model, text, other, _ = inputs
    document = json.loads((written / "comparison.json").read_text())
    assert len(document["rows"]) == 8
    assert document["accuracy_dense"] in (0.0, 1.0)
    config = PRESETS["flexcim"]
    for row in document["rows"][::3]:
        result = prune(
            asked(
                model,
                sparsity=row["sparsity_target"],
                calibration=text,
                evaluation=other,
                method=Method(row["method"]),
                update=Update(row["update"]),
                samples=4,
                length=32,
                seed=3,
            )
        )
        assert result.evaluations is not None
        assert row["sparsity"] == result.sparsity >= row["sparsity_target"]
        found = added_loss(result.evaluations.dense, result.evaluations.pruned)
        assert row["loss_added"] == pytest.approx(found.value, rel=1e-4, abs=1e-6)
        assert row["standard_error"] == pytest.approx(found.standard_error, rel=1e-3, abs=1e-6)
        integers = added_loss(result.evaluations.dense, result.evaluations.quantized)
        assert row["loss_added_int8"] == pytest.approx(integers.value, rel=1e-3, abs=1e-5)
        assert row["loss_dense"] == pytest.approx(result.evaluations.dense.loss.value, rel=1e-5)
        counted = CycleBudget(1.0, config, 64)
        layers = [(layer.tiling.outputs, layer.tiling.inputs, layer.pattern) for layer in result.layers]
        assert row["cycles"] == sum(counted.takes(rows, columns, pattern) for rows, columns, pattern in layers)
        assert row["cycles_dense"] == sum(counted.takes(rows, columns, Pattern(1, 1)) for rows, columns, _ in layers)
        assert row["accuracy"] in (0.0, 1.0)
        assert row["accuracy_standard_error"] is None  # of one question
        assert row["seconds"] > 0


def test_the_files_agree_and_the_plots_are_pictures(written):
    assert sorted(path.name for path in written.iterdir()) == [
        "comparison.csv",
        "comparison.json",
        "cycles.png",
        "sparsity.png",
    ]
    rows = json.loads((written / "comparison.json").read_text())["rows"]
    with open(written / "comparison.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["method"] for row in table] == [row["method"] for row in rows]
    assert [float(row["loss_added"]) for row in table] == [row["loss_added"] for row in rows]
    for name in ("cycles.png", "sparsity.png"):
        assert (written / name).read_bytes().startswith(b"\x89PNG")


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--methods", "measured,wanda"), "--methods must be of measured, paper, uniform, owl, not 'wanda'"),
        (("--updates", "all"), "--updates must be of none, lsq, obs, not 'all'"),
        (("--sparsities", "0.5,half"), "--sparsities must be numbers with commas between them, not '0.5,half'"),
        (("--seeds", "1.5"), "--seeds must be numbers with commas between them, not '1.5'"),
        (("--methods", ""), "a comparison needs at least one method, one sparsity and one seed"),
        (("--sparsities", "0.5,0.5"), "measured at 0.5, seed 0 is asked for twice"),
        (("--sparsities", "0.5,nan"), "sparsity must be between 0 and 1, not nan"),
        (("--seeds", "0,-1"), f"a seed must be between 0 and {2**64 - 1}, not -1"),
        (("--seeds", f"{2**64}"), f"a seed must be between 0 and {2**64 - 1}, not {2**64}"),
        (("--vectors", "0"), "a comparison counts cycles for at least one vector, not 0"),
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


def test_a_single_window_and_a_single_question_have_no_standard_error(inputs, tmp_path, capsys):
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


def test_other_peoples_folders_are_left_alone(inputs, tmp_path, capsys):
    (tmp_path / "thesis.tex").touch()
    assert main(words(inputs, tmp_path)) == 2
    assert capsys.readouterr().err.endswith(
        "holds 'thesis.tex', which is no earlier comparison, so it is not replaced\n"
    )
    assert main(words(inputs, tmp_path / "thesis.tex")) == 2
    assert capsys.readouterr().err.endswith("thesis.tex: is a file, so no folder can be written there\n")


def test_a_text_that_was_calibrated_on_measures_nothing(inputs):
    model, text, *_ = inputs
    ways = ways_of([Method.UNIFORM], [], None, [0.5], [0])
    with pytest.raises(ValueError, match=r"^the evaluation text shares a passage of 128 or more characters"):
        compare(ComparisonRequest(model=model, ways=ways, calibration=text, evaluation=text, samples=2, vectors=4))


def test_nothing_to_compare_is_refused():
    with pytest.raises(ComparisonError, match=r"^uniform lsq at 0\.5, seed 1 is asked for twice$"):
        ways_of([Method.UNIFORM], [Update.LSQ], None, [0.5], [1, 1])
