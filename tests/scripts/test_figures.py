"""The figures of README and docs: what is committed is what the script draws now, and nothing in them is typed in."""

from __future__ import annotations

import csv
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import numpy as np
import pytest

from flexcim.config.macro import preset
from flexcim.config.pattern import Pattern
from flexcim.macro.cycles import result_entries
from scripts.draw_figures import FIGURES, ROOT
from scripts.figures.canvas import Canvas, FigureError, text_width
from scripts.figures.house import FLOORS
from scripts.figures.plots import CHOICE, decode_speedup, prefill_speedup
from scripts.figures.slots import real_weights
from scripts.figures.waves import CONFIG, PATTERN, record
from tests.house.test_imports import HOUSE

IMAGES = ROOT / "docs" / "img"


@pytest.mark.parametrize("name", FIGURES)
def test_the_committed_figure_is_what_the_script_draws_now(name):
    drawn = FIGURES[name]().render()
    assert (IMAGES / f"{name}.svg").read_text(encoding="utf-8") == drawn, "run scripts/draw_figures.py"


def test_no_figure_is_left_over():
    assert {path.stem for path in IMAGES.glob("*.svg")} == {*FIGURES, "favicon"}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_well_formed_and_loads_nothing(name):
    text = (IMAGES / f"{name}.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    namespace = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{namespace}svg"
    assert root.findtext(f"{namespace}title")
    assert "prefers-color-scheme:dark" in text
    assert re.findall(r"(?:href|src|@import|url\((?!#))", text) == []
    used = {css for element in root.iter() for css in element.get("class", "").split()}
    assert {css for css in used if f".{css}{{" not in text and f".{css}," not in text} == set()


# --- The canvas ------------------------------------------------------------------------------------------------------


def test_a_text_that_does_not_fit_is_refused():
    canvas = Canvas(200, 100, "small")
    with pytest.raises(FigureError, match=r"^'a long text' is \d+ pixels wide, its room 20$"):
        canvas.text(10, 50, "a long text", room=20)
    with pytest.raises(FigureError, match=r"^'a long text' at \d+, 50 leaves a picture of 200 x 100$"):
        canvas.text(190, 50, "a long text")
    with pytest.raises(FigureError, match=r"^'a shape' at 210, 20 leaves a picture of 200 x 100$"):
        canvas.box(10, 10, 200, 10)
    with pytest.raises(FigureError, match=r"^'head' with 3 lines needs 71 pixels of height, not 60$"):
        canvas.block(10, 10, 100, 60, "plain", "head", ["a", "b", "c"])


def test_a_text_is_measured():
    widths = [text_width("i" * count, "text") for count in (1, 10, 20)]
    assert widths[1] == pytest.approx(10 * widths[0], rel=0.15)
    assert widths[0] < widths[1] < widths[2]
    assert text_width("W", "text") > 2 * text_width("i", "text")


def test_special_characters_stay_text():
    canvas = Canvas(200, 100, "a < b")
    canvas.text(10, 50, "m & n")
    root = ElementTree.fromstring(canvas.render())
    assert [element.text for element in root.iter() if element.text in ("a < b", "m & n")] == ["a < b", "m & n"]


# --- What they show --------------------------------------------------------------------------------------------------


def test_the_house_has_the_floors_that_the_house_test_holds():
    shown = {package: list(rooms) for package, rooms in FLOORS.items()}
    rooms = {package: [room for room in floors if room and room[0] != "_"] for package, floors in HOUSE.items()}
    assert shown == rooms


def test_the_choices_are_those_of_the_measurements():
    """docs/measurements.md, section 4, has the same figures as the data of the plots, in the same order."""
    text = (ROOT / "docs" / "measurements.md").read_text(encoding="utf-8")
    figures = r"([\d.]+)×? \(([\d.]+)–([\d.]+)\)"
    row = re.compile(rf"^\| (\S+-kjv) \| (\d+)% \| {' [|] '.join([figures] * 4)} \|$", re.MULTILINE)
    told = [list(match.groups()) for match in row.finditer(text)]
    lines = [line for line in CHOICE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert told == [fields[1:] for fields in list(csv.reader(lines))[1:]]
    assert len(told) == 24


def test_the_weights_are_the_models_largest_of_each_block():
    example = real_weights(Pattern(2, 4), range(3, 7), range(16, 32))
    blocks = np.abs(example.kept.reshape(4, -1, 4).astype(int))
    dropped = np.abs(np.where(example.kept == 0, example.dense, 0).reshape(4, -1, 4).astype(int))
    assert ((blocks != 0).sum(axis=2) == 2).all()
    assert (np.where(blocks == 0, 999, blocks).min(axis=2) >= dropped.max(axis=2)).all()


def test_the_speed_ups_are_those_of_the_benchmarks():
    """docs/measurements.md, sections 1 and 2."""
    config, dense = preset("flexcim"), preset("dense")
    for pattern in config.patterns:
        assert prefill_speedup(config, dense, pattern) == pytest.approx(pattern.m / pattern.n)
    speedups = [decode_speedup("accelerator-4", Pattern.parse(name)) for name in ("1:1", "2:4", "2:8")]
    assert speedups == pytest.approx([0.73, 1.45, 2.85], rel=0.04)


def test_a_run_without_pauses_has_no_bubble_and_one_with_them_keeps_whole_vectors():
    free, stalled = record(), record(lambda cycle: 15 <= cycle <= 30)
    issue = CONFIG.issue_cycles(PATTERN)
    assert free.issued == list(range(free.issued[0], free.issued[0] + 6 * issue))
    assert stalled.last > free.last
    for recording in (free, stalled):
        vectors = [recording.issued[place : place + issue] for place in range(0, 6 * issue, issue)]
        assert all(after - before == 1 for vector in vectors for before, after in pairwise(vector))
    held = [start for start in stalled.started if start + issue + 5 <= 30]
    assert len(held) == result_entries(CONFIG)
