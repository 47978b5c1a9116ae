"""``flexcim cycles`` from the command line: its tables, its JSON and its figure."""

from __future__ import annotations

import json

import pytest

from flexcim.compiler.report import PAPER
from flexcim.config.macro import PRESETS
from tests.support.packed_folders import call, packed_folder


@pytest.fixture
def folder(tmp_path):
    """A folder with a packed model, and the accelerator's configuration beside it."""
    packed_folder(tmp_path)
    return tmp_path


def test_cycles_are_told_as_table_json_and_plot(folder, capsys):
    report, plot = folder / "cycles.json", folder / "cycles.png"
    assert call(folder, "cycles", "--vectors", "6", "--json", str(report), "--plot", str(plot)) == 0
    shown = capsys.readouterr().out
    assert "prefill, 6 vectors" in shown
    assert "decode, 1 vector" in shown
    assert plot.read_bytes()[:4] == b"\x89PNG"
    phases = json.loads(report.read_text())["phases"]
    assert [(phase["name"], phase["vectors"]) for phase in phases] == [("prefill", 6), ("decode", 1)]
    for phase in phases:
        assert [layer["name"] for layer in phase["layers"]] == ["a", "b", "c"]
        assert phase["cycles"] == sum(layer["cycles"] for layer in phase["layers"])
        assert [one["name"] for one in phase["comparisons"]] == [*PRESETS, PAPER]
        for layer in phase["layers"]:
            assert layer["cycles"] >= layer["busy"][layer["bound"]] == max(layer["busy"].values())
            assert 0 < layer["utilisation"] <= 1
            assert f"{layer['cycles']:,}" in shown
    # 2:4 in cells of 11 bits: 11 / 16 of dense int8, where no tile is padded.
    (streamed,) = [layer for layer in phases[1]["layers"] if layer["name"] == "a"]
    assert streamed["bound"] == "weights"
    assert 11 / 16 < streamed["weight_bytes"] / streamed["dense_bytes"] < 1


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_a_file_that_cannot_be_written_is_told_before_the_work(option, folder, capsys):
    (folder / "folder.png").mkdir()
    for path, reason in (
        (folder / "accelerator.toml" / "x.png", f"{folder / 'accelerator.toml'}: File exists"),
        (folder / "folder.png", "Is a directory"),
    ):
        assert call(folder, "cycles", option, str(path)) == 2
        assert capsys.readouterr() == ("", f"flexcim: {path}: cannot be written ({reason})\n")


def test_a_file_that_cannot_be_written_after_all_has_the_name_that_was_given(folder, capsys, monkeypatch):
    path = folder / "cycles.json"
    monkeypatch.setattr("flexcim.cli.cycles.check_writable", lambda path: path.mkdir())
    assert call(folder, "cycles", "--json", str(path)) == 2
    assert capsys.readouterr().err == f"flexcim: {path}: cannot be written (Is a directory)\n"


@pytest.mark.parametrize("name", ["figure.xyz", "figure"])
def test_a_figure_of_an_unknown_kind_is_refused_before_the_work(name, folder, capsys):
    path = folder / name
    assert call(folder, "cycles", "--plot", str(path)) == 2
    said = f"{path}: the name of a figure must end in one of .png, .pdf, .svg"
    assert capsys.readouterr() == ("", f"flexcim: {said}\n")
    assert not path.exists()


@pytest.mark.parametrize(("name", "begin"), [("a.PNG", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml")])
def test_a_figure_is_what_its_name_says_and_the_same_each_time(name, begin, folder):
    first, second = folder / "first" / name, folder / "second" / name
    for path in (first, second):
        assert call(folder, "cycles", "--vectors", "2", "--plot", str(path)) == 0
    assert first.read_bytes().startswith(begin)
    assert first.read_bytes() == second.read_bytes()
