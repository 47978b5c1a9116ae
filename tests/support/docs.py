"""What the docs say, on whichever page it stands."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def docs_text() -> str:
    """All pages, each run of spaces and line breaks as one space."""
    return " ".join(" ".join(page.read_text(encoding="utf-8").split()) for page in sorted(DOCS.rglob("*.md")))


def docs_table(*heading: str) -> list[list[str]]:
    """The rows of all tables of the docs whose heading begins with these cells: the text of each cell."""
    found = [
        row
        for page in sorted(DOCS.rglob("*.md"))
        for lines in [page.read_text(encoding="utf-8").splitlines()]
        for place, line in enumerate(lines)
        if line.startswith("|") and tuple(_cells(line)[: len(heading)]) == heading
        for row in _rows(lines[place + 2 :])
    ]
    assert found, f"no table of the docs has the heading {' | '.join(heading)}"
    return found


def _rows(lines: list[str]) -> list[list[str]]:
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(_cells(line))
    return rows


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
