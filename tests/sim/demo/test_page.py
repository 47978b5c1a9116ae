"""The page without a browser: its structure, its numbers, and that nothing of it comes from outside.

A browser opens it in ``tests/regression/test_demo_page.py``.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from flexcim_sim.demo.page import page
from flexcim_sim.demo.svg import COLOURS
from flexcim_sim.demo.tables import layer_table, model_table, phase_table, rtl_tables
from tests.support.demo_reports import layer, made_up, run, vector

VOID = {"br", "hr", "img", "input", "link", "meta"}


class Parsed(HTMLParser):
    """Tags with their attributes, the text outside of style and script, and each table's rows of cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.tables: list[list[list[str]]] = []
        self.feed(html)
        self.close()
        assert self.open == [], "all elements are closed"

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), f"{tag} has an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        assert tag in VOID or "svg" in self.open, f"HTML has no empty {tag}"

    def handle_endtag(self, tag):
        assert self.open, f"{tag} ends without a beginning"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data
            if self.open[-1] in ("td", "th"):
                self.tables[-1][-1][-1] += data

    def values(self, name: str) -> list[str]:
        """The values of an attribute, of all elements."""
        return [attributes[name] or "" for _, attributes in self.tags if name in attributes]


@pytest.fixture(scope="module")
def html() -> str:
    return page(made_up())


@pytest.fixture(scope="module")
def parsed(html) -> Parsed:
    return Parsed(html)


def test_the_page_has_its_sections(parsed):
    assert ("html", {"lang": "en"}) in parsed.tags
    headings = [attributes.get("id") for tag, attributes in parsed.tags if tag == "h2"]
    assert headings == ["verdict", "models", "texts", "rtl", "vector", "layers", "files"]
    figures = [attributes["aria-label"] for tag, attributes in parsed.tags if tag == "svg"]
    assert len(figures) == 4
    assert all(figures)


def test_ids_are_unique_and_what_is_referred_to_is_there(html, parsed):
    ids = Counter(parsed.values("id"))
    assert [name for name, count in ids.items() if count > 1] == []
    referred = {value[1:] for name in ("href", "xlink:href") for value in parsed.values(name) if value[:1] == "#"}
    referred |= set(re.findall(r"url\(#([^)]+)\)", html)) | set(parsed.values("aria-labelledby"))
    assert referred
    assert referred <= set(ids)


def test_nothing_comes_from_outside(html, parsed):
    assert parsed.values("src") == []
    links = {value for name in ("href", "xlink:href") for value in parsed.values(name) if value[:1] != "#"}
    assert links == {"data:,", "report.json"}, "an empty icon, and the file beside the page"
    assert re.findall(r"url\((?!#)|@import|<(?:iframe|object|embed|base)", html) == []
    namespaces = ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink")
    assert set(re.findall(r"https?://[^\"' )<]+", html)) <= set(namespaces)


def test_light_and_dark_have_the_same_colours(html):
    light, dark = re.findall(r":root \{(.*?)\}", html, re.DOTALL)
    names = [set(re.findall(r"(--\w+): #", part)) for part in (light, dark)]
    assert names[0] == names[1]
    used = set(re.findall(r"var\((--\w+)\)", html)) - {"--font"}
    assert used <= names[0]
    assert {f"--{name}" for name in COLOURS} <= names[0]
    assert [colour for colour in COLOURS.values() if colour in html] == [], "stand-ins were replaced"


def test_the_tables_are_the_report(parsed):
    report = made_up()
    tables = [
        model_table(report),
        *rtl_tables(report),
        phase_table(report.vector),
        *(layer_table(report, model) for model in report.models),
    ]
    shown = [[[cell.strip() for cell in row] for row in table] for table in parsed.tables]
    assert shown == [[list(table.header), *map(list, table.rows)] for table in tables]
    first, second = shown[0][1:3]
    assert first == ["llama", "FLOW (default)", "62.5%", "1.500", "1.750", "1.765", "1,200", "2,400", "2.00"]
    assert second[1:6] == ["published method", "65.0%", "1.500", "4.250", "4.500"]
    assert shown[1][1] == ["llama", "0.up_proj", "2:8", "8,192", "0", "100", "100", "350", "3.50", "4.00"]
    assert shown[2][1:] == [
        ["weights", "1 to 2", "2 beats"],
        ["slices", "3 to 6", "the array computes"],
        ["results", "7", "1 beat"],
    ]
    assert shown[3][2] == ["1.up_proj", "64x64", "2:4", "1", "3", "50.0%", "100", "350", "3.50", "2.00"]


def test_the_figures_say_what_the_report_says(html):
    assert all(f">{value}<" in html for value in ("1.500", "1.765", "4.500")), "at the ends of the bars"
    assert ">weights.payload<" in html


def test_the_page_shows_what_the_models_write(parsed):
    for text in ("God made the heaven …", "was the word …", "t ther t …"):
        assert text in parsed.text
    assert "-5012, 77" in parsed.text
    assert "as the golden model has them" in parsed.text


def test_the_verdict_is_about_hardware_alone(html, parsed):
    assert "✓ Hardware: all is well" in parsed.text
    assert "RTL equals the golden model in 3 of 3 simulations (8,194 outputs" in parsed.text
    failed = Parsed(page(made_up(sparse=run(mismatches=7), vector=vector(run=run(8, mismatches=1)))))
    assert "✗ Hardware: something is wrong" in failed.text
    assert "all is well" not in failed.text
    assert "7 of 4096 outputs differ from the golden ones" in failed.text
    assert "which are not those of the golden model" in failed.text


def test_a_vector_that_did_not_pass_has_no_waveform():
    lost = vector(run=run(0, outputs_compared=0, message="it stands still"), results=[], traces={}, phases=())
    parsed = Parsed(page(made_up(vector=lost)))
    assert "The vector did not pass" in parsed.text
    assert "it stands still" in parsed.text


def test_names_and_texts_are_shown_as_they_are():
    evil = '<script>alert("1")</script> & $x_1$ \\frac'
    report = made_up()
    first = report.models[0]
    first = replace(
        first,
        name=evil,
        text_dense=evil,
        default=replace(first.default, text=evil),
        layers=(replace(layer("a"), name=f"0.{evil}"),),
    )
    html = page(replace(report, models=[first, report.models[1]], prompt=evil))
    parsed = Parsed(html)
    assert Counter(tag for tag, _ in parsed.tags)["script"] == 1
    assert parsed.text.count(evil) > 10
    assert f'aria-label="Layers of {evil[:8]}' not in html


def test_equal_reports_are_equal_pages(html):
    assert page(made_up()) == html
