"""``flexcim silicon`` from the command line: tables, JSON, figure, comparisons, what is missing, and a kill."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from flexcim.cli import main
from flexcim_hw.silicon import synthesis, timing
from flexcim_hw.verilog.macro import generate
from tests.support.silicon import TINY, tiny_liberty

pytestmark = pytest.mark.slow

SENTENCE = "the program 'sta' of OpenSTA is missing; install it (Debian: apt-get install opensta)"


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    """Where mapped modules are kept."""
    return tmp_path_factory.mktemp("builds")


@pytest.fixture
def folder(tmp_path, builds, monkeypatch):
    """A folder with the configurations of a tiny macro and of one with dense cells only."""
    monkeypatch.setenv("FLEXCIM_BUILD", str(builds))
    tiny = "sub_macros = 2\nrows = 2\ncolumns = 2\nactivation_port = 4\nresult_port = 2\naccumulator_depth = 8\n"
    (tmp_path / "tiny.toml").write_text(f'[macro]\n{tiny}patterns = ["1:1", "1:2", "2:4"]\n')
    (tmp_path / "plain.toml").write_text(f'preset = "dense"\n[macro]\n{tiny}')
    return tmp_path


def call(folder, *arguments):
    return main(["silicon", "--config", str(folder / "tiny.toml"), "-o", str(folder / "out"), *arguments])


def test_area_and_clock_are_told_as_tables_json_and_figure(folder, capsys):
    assert call(folder, "--config", str(folder / "plain.toml")) == 0
    shown = capsys.readouterr().out
    for text in ("tiny: area", "plain: memories, three ways", "slowest path", "as multiples of tiny", "lane muxes"):
        assert text in shown
    assert "osu018_stdcells, typical, 1.8 V, 25 °C; no wires" in shown
    assert "memories as latches: the library gives a cell that they need no area" in shown
    report = json.loads((folder / "out" / "silicon.json").read_text())
    assert (report["format"], report["schema_version"]) == ("flexcim-silicon", 1)
    assert "no wires" in report["wires"]
    tiny, plain = report["instances"]
    assert tiny["rtl_sha256"] == hashlib.sha256(generate(TINY, init=False).text.encode()).hexdigest()
    for one in (tiny, plain):
        area = one["area"]
        assert area["total"] == pytest.approx(area["logic"] + area["memories"])
        assert sum(block["logic"] + block["memories"] for block in one["blocks"]) == pytest.approx(area["total"])
        assert sum(memory["flip_flops"] for memory in one["memories"]) == pytest.approx(area["memories"])
        assert one["clock_ns"] + one["slack_ns"] == pytest.approx(5)
        assert sum(stage["delay"] for stage in one["critical_path"]) < one["clock_ns"]
    assert plain["against_first"]["logic"] == pytest.approx(plain["area"]["logic"] / tiny["area"]["logic"])
    assert plain["against_first"]["logic"] < 1
    figure = (folder / "out" / "area.svg").read_text()
    assert "<svg" in figure
    assert "<!-- osu018_stdcells, typical, 1.8 V, 25 °C; no wires -->" in figure


def test_a_period_that_cannot_be_met_is_told(folder, capsys):
    assert call(folder, "--period", "0.5") == 0
    assert "0.5 ns are not met, slack -" in capsys.readouterr().out


def test_without_opensta_area_is_measured_and_the_rest_is_said(folder, capsys, monkeypatch):
    monkeypatch.setattr(timing, "missing_sta", lambda: SENTENCE)
    assert call(folder) == 0
    assert f"clock: {SENTENCE}" in capsys.readouterr().out
    report = json.loads((folder / "out" / "silicon.json").read_text())
    assert (report["clock_missing"], report["instances"][0]["clock_ns"]) == (SENTENCE, None)
    assert call(folder, "--clock", "-o", str(folder / "other")) == 2
    assert capsys.readouterr().err == f"flexcim: {SENTENCE}\n"
    assert not (folder / "other").exists()


def test_the_clock_may_be_left_out(folder, capsys):
    assert call(folder, "--no-clock") == 0
    assert "clock: not asked for (--no-clock)" in capsys.readouterr().out
    assert json.loads((folder / "out" / "silicon.json").read_text())["instances"][0]["critical_path"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--period", "0"], "--period must be from 0.001 to 1000000 ns, not 0"),
        (["--compare", "denser"], "unknown preset 'denser'"),
        (["--liberty", "{tmp}/none.lib"], "{tmp}/none.lib: cannot be read"),
        (["--liberty", "{tmp}/tiny.toml"], "{tmp}/tiny.toml: is no Liberty file"),
        (["--liberty", "{tmp}/tiny.lib"], "{tmp}/tiny.lib: holds no latch"),
        (["--memories", "{tmp}/tiny.lib"], "{tmp}/tiny.lib: holds no memory macro"),
        (["-o", "{tmp}/tiny.toml"], "{tmp}/tiny.toml: cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_work(arguments, message, folder, capsys):
    (folder / "tiny.lib").write_text(tiny_liberty(LATCH=""))
    assert call(folder, *(word.replace("{tmp}", str(folder)) for word in arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("flexcim: ")
    assert message.replace("{tmp}", str(folder)) in err
    assert len(err.splitlines()) == 1
    assert not (folder / "out").exists()


def test_a_netlist_that_is_too_large_is_said_with_its_instance(folder, capsys, monkeypatch):
    monkeypatch.setattr(synthesis, "free_memory", lambda: 1 << 20)
    assert call(folder) == 2
    assert "flexcim: tiny: the netlist would have about" in capsys.readouterr().err
    assert list((folder / "out").iterdir()) == []


def test_a_call_that_was_killed_goes_on_with_what_it_had_mapped(folder, capsys, monkeypatch):
    monkeypatch.setenv("FLEXCIM_BUILD", str(folder / "builds"))
    kept = folder / "builds" / "silicon-cache"
    words = ["silicon", "--config", str(folder / "tiny.toml"), "--no-clock", "-o", str(folder / "out")]
    process = subprocess.Popen([sys.executable, "-m", "flexcim", *words], start_new_session=True)
    while len(list(kept.glob("*.json"))) < 3:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    mapped = {path: path.stat().st_mtime_ns for path in kept.glob("*.json")}
    assert list((folder / "out").iterdir()) == []
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in mapped} == mapped
    assert len(list(kept.glob("*.json"))) > len(mapped)
    assert {path.name for path in (folder / "out").iterdir()} == {"area.svg", "silicon.json"}
