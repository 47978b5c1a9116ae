"""README, contributor's guide and docs: links lead somewhere, lines and cells stay short, commands exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from flexcim.cli.command import SUBCOMMANDS
from scripts.site_pages import from_root, reference
from tests.support.repository import ROOT, read, repository_files

PAGES = [
    path
    for path in sorted(repository_files())
    if path.suffix == ".md" and (path.parts[0] == "docs" or path.name in ("README.md", "CONTRIBUTING.md"))
    if path.parts[0] in ("docs", path.name)
]
for_each_page = pytest.mark.parametrize("path", PAGES, ids=str)
for_each_page_that_is_not_run = pytest.mark.parametrize(
    "path", [path for path in PAGES if path.parts[:2] not in {("docs", "tutorial"), ("docs", "how-to")}], ids=str
)
"""tests/docs/test_pages.py runs the others, which also write files and install plug-ins of their own."""

LONGEST_LINE = LONGEST_CELL = 120
LONGEST_README = 130
MADE = {f"docs/{name}" for name in (*reference(), *from_root())}
"""Pages that the site has, but the repository has not."""


def outside_code(text: str) -> list[tuple[int, str]]:
    """The lines of a page that are no code block, with their numbers."""
    lines, fence = [], ""
    for number, line in enumerate(text.splitlines(), start=1):
        mark = re.match(r"\s*(`{3,}|~{3,})", line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence):
            fence = ""
        elif not fence:
            lines.append((number, line))
    return lines


# --- Lines and cells -------------------------------------------------------------------------------------------------


def too_long(text: str) -> list[str]:
    """Prose lines and table cells that are too long. A line that is one link cannot be broken."""
    found = []
    for number, line in outside_code(text):
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            found += [f"line {number}: a cell of {len(cell)}" for cell in cells if len(cell) > LONGEST_CELL]
        elif len(line) > LONGEST_LINE and not re.fullmatch(r"\s*(?:[-*] )?!?\[[^\]]*\]\([^)]*\)[.,;]?", line):
            found.append(f"line {number}: {len(line)} characters")
    return found


@for_each_page
def test_no_line_and_no_cell_is_too_long(path: Path) -> None:
    assert too_long(read(path)) == []


def test_the_rule_of_lengths_finds_what_is_too_long() -> None:
    text = f"{'word ' * 25}\n| a | {'b' * 121} |\n```sh\n{'x' * 200}\n```\n[{'t' * 60}]({'u' * 60})\nend\n"
    assert too_long(text) == ["line 1: 125 characters", "line 2: a cell of 121"]


def test_the_readme_is_short() -> None:
    assert len(read(Path("README.md")).splitlines()) <= LONGEST_README


# --- Links -----------------------------------------------------------------------------------------------------------

LINK = re.compile(r"!?\[[^\]]*\]\(\s*(?P<target>[^)\s]+)[^)]*\)")


def heading_anchor(heading: str) -> str:
    """The anchor that the site, and hosts of Markdown, give a heading."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", plain.encode("ascii", "ignore").decode())).strip("-")


def anchors(text: str) -> set[str]:
    headings = (re.match(r"#+ (.*)", line) for _, line in outside_code(text))
    return {heading_anchor(heading[1]) for heading in headings if heading}


def broken_links(path: Path, text: str) -> list[str]:
    """Local links and images of a page that lead nowhere. A link's text may go over the end of a line."""
    found = []
    plain = re.sub(r"`[^`]*`", "", "\n".join(line for _, line in outside_code(text)))
    for match in LINK.finditer(plain):
        target, _, anchor = match["target"].partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        there = (ROOT / path.parent / target).resolve() if target else ROOT / path
        if there.is_relative_to(ROOT) and there.relative_to(ROOT).as_posix() in MADE:
            continue
        missing = bool(target) and not there.exists()
        if missing or (anchor and anchor not in anchors(there.read_text(encoding="utf-8") if target else text)):
            found.append(match["target"])
    return found


@for_each_page
def test_local_links_and_images_lead_somewhere(path: Path) -> None:
    assert broken_links(path, read(path)) == []


def test_the_rule_of_links_finds_what_is_broken() -> None:
    text = (
        "## 3.1 A *b* `c`\n[a\na](nowhere.md) ![b](img/none.svg) [c](#31-a-b-c) [d](#none) `[e](none)`\n"
        "[f](architecture.md#4-the-house) [g](architecture.md#9-none) [h](https://example.org/none)\n[i](changelog.md)"
    )
    broken = ["nowhere.md", "img/none.svg", "#none", "architecture.md#9-none"]
    assert broken_links(Path("docs/page.md"), text) == broken


def test_each_figure_is_shown() -> None:
    shown = {Path(match["target"]).name for path in PAGES for match in LINK.finditer(read(path))}
    drawn = {path.name for path in repository_files() if path.parent == Path("docs/img")}
    assert drawn - shown == {"favicon.svg"}


# --- Commands --------------------------------------------------------------------------------------------------------


SHELL = {"|", "||", "&&", ";", ">", ">>", "2>&1"}
"""Words behind which something else than the command's own begins."""


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of each command of ours in the shell blocks of a page."""
    for block in re.findall(r"^```sh\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0].removeprefix(".venv/bin/") == "flexcim":
                end = next((place for place, word in enumerate(words) if word in SHELL), len(words))
                yield words[1:end]


def mistake(arguments: list[str]) -> str | None:
    """What is wrong with a command line: an unknown subcommand, an unknown option, a value of the wrong kind."""
    if arguments[0] not in SUBCOMMANDS:
        return f"no subcommand {arguments[0]}"
    app = typer.Typer(add_completion=False)
    app.command(arguments[0])(SUBCOMMANDS[arguments[0]].load())
    command = typer.main.get_command(app)
    try:
        command.make_context("flexcim", arguments[1:])
    except Exception as error:
        return f"{' '.join(arguments)}: {getattr(error, 'message', error)}"
    return None


@for_each_page_that_is_not_run
def test_the_commands_of_a_page_parse(path: Path) -> None:
    assert list(filter(None, map(mistake, commands(read(path))))) == []


def test_the_readme_shows_commands() -> None:
    assert {arguments[0] for arguments in commands(read(Path("README.md")))} >= {"generate", "verify", "prune"}


def test_the_rule_of_commands_finds_what_is_wrong() -> None:
    text = (
        "```sh\n.venv/bin/flexcim generate --preset board -o rtl  # Verilog\nflexcim presets --none\n"
        ".venv/bin/flexcim frobnicate x\nls\n```\n```text\nflexcim none\n```\n"
    )
    found = list(map(mistake, commands(text)))
    assert found[0] is None
    assert "--none" in str(found[1])
    assert found[2:] == ["no subcommand frobnicate"]


# --- Files that are named ---------------------------------------------------------------------------------------------


@for_each_page_that_is_not_run
def test_the_files_that_a_page_names_are_there(path: Path) -> None:
    tops = {name.parts[0] for name in repository_files() if len(name.parts) > 1} - {"models"}
    named = set(re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|md|c|h|csv))`", read(path)))
    assert [name for name in sorted(named) if name.split("/")[0] in tops and not (ROOT / name).is_file()] == []


def test_the_walk_goes_through_files_that_are_there() -> None:
    walk = read(Path("docs/walk.md"))
    tables = re.findall(r"^\| in `([^`]+)` \|.*\n\|[-|]+\n((?:\|.*\n)+)", walk, flags=re.MULTILINE)
    named = [ROOT / folder / name for folder, rows in tables for row in rows.splitlines() for name in first_names(row)]
    assert len(named) > 40
    assert [str(path) for path in named if not path.exists()] == []


def first_names(row: str) -> list[str]:
    return re.findall(r"`([^`]+)`", row.split("|")[1])


def test_the_citation_is_complete() -> None:
    text = read(Path("CITATION.cff"))
    assert re.search(r"^version: (\S+)$", text, flags=re.MULTILINE)[1] in read(Path("pyproject.toml"))  # type: ignore[index]
    assert re.findall(r"^(cff-version|message|title|authors|license|references):", text, flags=re.MULTILINE)
    assert "2504.14365" in text
