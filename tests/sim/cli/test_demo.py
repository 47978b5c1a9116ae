"""``flexcim demo`` with a stand-in for the work: its options, what it prints and writes, and its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexcim.cli import main
from flexcim_sim.demo import demo
from flexcim_sim.demo.demo import Options
from flexcim_sim.demo.report import Report
from tests.support.demo_reports import made_up, run


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Calls ``flexcim demo`` with a stand-in for the work; gives exit code, output and errors."""

    def call(report: Report, *arguments: str) -> tuple[int, str, str, Options]:
        seen = []

        def stand_in(options, *, expect_steps, done):
            seen.append(options)
            expect_steps(2)
            done("the first step")
            return report

        monkeypatch.setattr(demo, "run_demo", stand_in)
        monkeypatch.setenv("COLUMNS", "160")  # a narrow terminal would cut the tables
        code = main(["demo", "--output", str(tmp_path / "out"), *arguments])
        return (code, *capsys.readouterr(), seen[0])

    return call


def test_the_command_prints_and_writes_the_report(command, tmp_path):
    code, out, err, options = command(made_up(), "--seed", "3", "--sparsity", "0.5", "--jobs", "5", "--layers", "9")
    assert code == 0
    assert (options.seed, options.sparsity, options.jobs, options.layers) == (3, 0.5, 5, 9)
    assert [model.name for model in options.models] == ["llama-kjv", "mamba2-kjv"]
    assert all(path.exists() for path in (*options.models, options.calibration, options.heldout))
    assert out.startswith("seed 3\n")
    assert "1.up_proj" in out
    assert "3.50" in out
    assert "published method" in out
    assert "In the beginning was the word …" in out
    *_, verdict, written = out.splitlines()
    assert verdict == f"hardware: {made_up().verdict}"
    assert written == f"written: {tmp_path / 'out' / 'report.html'} (12 seconds)"
    assert "the first step" in err
    assert [line for line in out.splitlines() if line != line.rstrip()] == []
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
    "arguments", [["--models", "a", "b"], ["--models", "a", "--models", "b"], ["--models", "a", "--seed", "1", "b"]]
)
def test_models_are_named_one_after_the_other(command, arguments):
    assert command(made_up(), *arguments)[-1].models == [Path("a"), Path("b")]


def test_texts_can_be_others(command):
    options = command(made_up(), "--calibration", "some.txt", "--evaluate", "other.txt")[-1]
    assert (options.calibration, options.heldout) == (Path("some.txt"), Path("other.txt"))


def test_brackets_in_a_text_are_printed_as_they_are(command):
    report = made_up(prompt="[bold] [/x]")
    assert "[bold] [/x] was the word" in command(report)[1]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (run(mismatches=7), "7 of 4096 outputs differ from the golden ones"),
        (run(cycles_rtl=101), "101 cycles in the RTL, but 100 by the cycle model"),
    ],
)
def test_the_command_fails_if_anything_is_wrong(command, tmp_path, wrong, sentence):
    code, out, err, _ = command(made_up(sparse=wrong))
    assert code == 1
    assert f"flexcim: llama, model.layers.0.mlp.up_proj in verilator on flexcim 4x32x32: {sentence}\n" in err
    assert "2 of 3" in out
    assert sentence in (tmp_path / "out" / "report.html").read_text()


def test_the_command_refuses_bad_input(capsys, tmp_path):
    assert main(["demo", "--sparsity", "1.5"]) == 2
    (tmp_path / "file").write_text("")
    capsys.readouterr()
    assert main(["demo", "--output", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err == f"flexcim: {tmp_path / 'file'}: cannot be written (File exists)\n"
    (tmp_path / "report.html").mkdir()
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"flexcim: {tmp_path / 'report.html'}: cannot be written (Is a directory)\n"
    assert main(["demo", "--output", ""]) == 2
    assert "a folder must have a name, not ''" in capsys.readouterr().err


def test_outside_the_repository_models_must_be_named(monkeypatch, capsys, command):
    monkeypatch.setattr("flexcim_sim.cli.demo.checkout", lambda: None)
    assert main(["demo"]) == 2
    sentence = "flexcim: the demonstration's own models are in the repository alone; name checkpoints by --models\n"
    assert capsys.readouterr().err == sentence
    options = command(made_up(), "--models", "a")[-1]
    assert options.models == [Path("a")]
    assert options.calibration.exists(), "the texts come with the package"
