"""The documentation site: it builds without a warning, loads nothing from elsewhere, and has every module."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from scripts.site_pages import reference, rooms
from tests.support.repository import PACKAGE_FILES, ROOT, module_name


class Loaded(HTMLParser):
    """Collects what a browser fetches for a page by itself, and the anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {values["id"] or ""} if "id" in values else set()
        if tag in ("script", "img", "iframe", "source"):
            self.fetched.append(values.get("src") or "")
        elif tag == "link" and values.get("rel") in ("stylesheet", "icon", "preconnect", "preload"):
            self.fetched.append(values.get("href") or "")


def build_site(folder: Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    # The theme's makers announce its successor at each start; that is no warning of these pages.
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    ran = build_site(folder)
    assert re.findall(r"^(?:WARNING|ERROR).*", ran.stderr, flags=re.MULTILINE) == []
    assert ran.returncode == 0, ran.stderr
    return folder


def parsed(path: Path) -> Loaded:
    page = Loaded()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def test_a_warning_would_be_seen(tmp_path):
    """A page of its own with a link to nowhere."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[nowhere](nowhere.md)\n")
    (tmp_path / "mkdocs.yml").write_text("site_name: none\nplugins: []\n")
    ran = build_site(tmp_path / "site", tmp_path)
    assert ran.returncode == 1
    assert "WARNING -  Doc file 'index.md' contains a link 'nowhere.md'" in ran.stderr


def test_a_page_loads_nothing_from_elsewhere(site):
    pages = {path: parsed(path).fetched for path in site.rglob("*.html")}
    assert len(pages) > 40
    assert {name for fetched in pages.values() for name in fetched if re.match(r"(?:\w+:)?//", name)} == set()
    missing = {
        f"{path.relative_to(site)}: {name}"
        for path, fetched in pages.items()
        for name in fetched
        if name and not name.startswith("/") and not (path.parent / name.partition("?")[0]).is_file()
    }
    assert missing == set()
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:@import|url\(['\"]?https?:)", styles) == []


def test_the_reference_has_every_module(site):
    anchors = set().union(*(parsed(path).anchors for path in (site / "reference").glob("*.html")))
    modules = {module_name(path) for path in PACKAGE_FILES if not path.name.startswith("__")}
    assert modules <= anchors
    assert {module for _, room in rooms() for module in room} == modules


def test_the_ports_of_a_component_are_a_table(site):
    """A ``Members`` section that the parser does not know would become a note."""
    page = (site / "reference" / "flexcim_hw.macro.html").read_text(encoding="utf-8")
    assert "Members" not in re.findall(r"<summary>(.*?)</summary>", page)
    assert re.search(r"<td>.*load, run.*</td>\n", page)


def test_the_reference_says_what_each_room_holds():
    contents = reference()["reference/index.md"]
    assert all(re.search(rf"\[`{re.escape(room)}`\]\(\S+\) \| \w.*\w", contents) for room, _ in rooms())
