"""The whole demonstration, and its page in a real browser: narrow and wide, light and dark.

The browser is Debian's ``chromium``. Where it is missing the tests fail: nobody has looked at the page then.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chromium import Chromium, chromium

pytestmark = pytest.mark.regression

WIDTHS, SCHEMES = (1280, 390), ("light", "dark")

BROKEN_IMAGES = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"

# What sticks out of the window, unless something between scrolls by itself.
STICKING_OUT = """
[...document.querySelectorAll("body *")].filter(element => {
  if (element.closest(".wide") || !element.getClientRects().length) return false;
  return element.getBoundingClientRect().right > window.innerWidth + 0.5;
}).map(element => element.outerHTML.slice(0, 80))
"""
EMPTY_FIGURES = """
[...document.querySelectorAll("figure svg")].filter(
  svg => svg.getBoundingClientRect().height < 100 || !svg.querySelector("path, use")).length
"""
# Text on the surface behind it: WCAG's contrast, (lighter + 0.05) / (darker + 0.05). What has the surface's own colour
# stands on a bar.
CONTRAST = """
(() => {
  const light = colour => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(part => part / 255)
      .map(part => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const behind = light(getComputedStyle(document.querySelector("section")).backgroundColor);
  const onIt = 'section p, section h2, section th, section td, section a, section dt, svg text:not([style*="surface"])';
  const ratios = [...document.querySelectorAll(onIt)].map(element => {
      const style = getComputedStyle(element);
      const text = light(element instanceof SVGElement ? style.fill : style.color);
      return (Math.max(text, behind) + 0.05) / (Math.min(text, behind) + 0.05);
    });
  return Math.min(...ratios);
})()
"""


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory) -> Path:
    """The folder that a demonstration of the shipped models wrote."""
    folder = tmp_path_factory.mktemp("demo") / "written"
    command = [sys.executable, "-c", "import sys; from flexcim.cli import main; sys.exit(main())"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [*command, "demo", "--output", folder], capture_output=True, text=True, env=environment, check=False
    )
    assert run.returncode == 0, run.stderr
    print(run.stdout)
    assert f"written: {folder / 'report.html'}" in run.stdout
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Chromium]:
    with chromium(tmp_path_factory.mktemp("profile")) as running:
        yield running


def test_the_demonstration_shows_our_own_pruner(demonstration):
    """Bits per byte as docs/measurements.md has them, on another part of the text."""
    report = json.loads((demonstration / "report.json").read_text())
    assert report["failures"] == []
    assert [model["name"] for model in report["models"]] == ["llama-kjv", "mamba2-kjv"]
    for model in report["models"]:
        assert model["label"] == "FLOW (default)"
        assert 0.6 <= model["sparsity"] < 0.61
        assert model["bpb_dense"] < model["bpb_pruned"] < model["bpb_dense"] + 0.12
        assert abs(model["bpb_int8"] - model["bpb_pruned"]) < 0.01
        assert model["published"]["bpb_int8"] > model["bpb_int8"] + 0.1
        assert model["text"].startswith("of the ")
    assert len(report["rtl"]) == 2 * 4 + 1
    assert all(entry["cycles_rtl"] == entry["cycles_model"] > 0 for entry in report["rtl"])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_opens_clean(demonstration, browser, width, scheme):
    page = demonstration / "report.html"
    tab = browser.tab()
    tab.show(page, width=width, scheme=scheme)
    assert tab.evaluate("window.innerWidth") == width
    assert tab.evaluate(f"matchMedia('(prefers-color-scheme: {scheme})').matches")
    assert tab.messages == []
    assert tab.requests == [page.resolve().as_uri()]
    assert tab.evaluate(BROKEN_IMAGES) == 0
    assert tab.evaluate(EMPTY_FIGURES) == 0
    assert tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)") is None
    assert tab.evaluate(OVERFLOW) <= 0
    assert tab.evaluate(STICKING_OUT) == []
    assert tab.evaluate(CONTRAST) >= 4.5


def test_light_and_dark_differ(demonstration, browser):
    tab = browser.tab()
    colours = []
    for scheme in SCHEMES:
        tab.show(demonstration / "report.html", width=1280, scheme=scheme)
        colours.append(
            [
                tab.evaluate("getComputedStyle(document.body).backgroundColor"),
                tab.evaluate("getComputedStyle(document.querySelector('svg text')).fill"),
            ]
        )
    assert all(light != dark for light, dark in zip(*colours, strict=True))


def test_a_click_on_a_column_sorts_its_table(demonstration, browser):
    tab = browser.tab()
    tab.show(demonstration / "report.html", width=1280)
    cells = "[...document.querySelector('details table').tBodies[0].rows].map(row => row.cells[6].textContent)"
    click = "document.querySelector('details table').tHead.rows[0].cells[6].querySelector('button').click()"
    before = [int(text.replace(",", "")) for text in tab.evaluate(cells)]
    tab.evaluate(click)
    up = [int(text.replace(",", "")) for text in tab.evaluate(cells)]
    tab.evaluate(click)
    down = [int(text.replace(",", "")) for text in tab.evaluate(cells)]
    assert before != sorted(before) == up
    assert down == sorted(before, reverse=True)
    assert tab.messages == []


def test_what_is_wrong_with_a_page_would_be_seen(demonstration, browser, tmp_path):
    """Each of the checks, on a page that has what it looks for."""
    page = tmp_path / "bad.html"
    bad = "<img src='nowhere.png'><div style='width: 2000px'>wide</div><script>console.error('oh'); nothing()</script>"
    page.write_text(f"<!DOCTYPE html><body>{bad}</body>")
    tab = browser.tab()
    tab.show(page, width=390)
    assert tab.evaluate(BROKEN_IMAGES) == 1
    assert tab.evaluate(STICKING_OUT)[0].startswith("<div")
    assert tab.evaluate("document.documentElement.scrollWidth") > 390
    assert len(tab.requests) == 2
    assert len(tab.messages) >= 2
