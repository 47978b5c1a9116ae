"""The tutorials and how-tos: every block of code is run, and every file and name that they speak of is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.support.pages import RUNNERS, Block, PageError, blocks_of, prints, run_page
from tests.support.repository import ROOT

pytestmark = [pytest.mark.simulator, pytest.mark.slow, pytest.mark.torch]

DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8")
    for folder in ("tutorial", "how-to")
    for path in sorted((DOCS / folder).glob("*.md"))
}

SLOW = {
    "how-to/add-a-model-family.md": "runs the tests of a family",
    "how-to/add-a-parameter.md": "runs the bench on a changed macro, twice",
    "how-to/add-a-selector.md": "makes an environment with a plug-in in it, as the page on scores does",
    "how-to/compare-pruners.md": "prunes a shipped model twice, and measures it",
    "how-to/measure-silicon.md": "maps and times a macro several times",
    "how-to/prune-options.md": "prunes a shipped model seven times",
    "how-to/read-the-coverage.md": "runs the bench three times, once until all is covered",
    "how-to/two-plans.md": "prunes a shipped model three times, and gives it a second plan",
    "how-to/verilog-options.md": "runs the bench without initial values",
    "tutorial/drive-it-from-c.md": "does what the tests of the example in C do",
    "tutorial/prune-your-model.md": "prunes a shipped model as one would, with everything that comes after it",
}
"""Pages that the regression runs, each with the reason."""

CHANGES = {"how-to/add-a-model-family.md", "how-to/add-a-parameter.md", "how-to/add-a-preset.md"}
"""Pages that change the checkout."""

NOT_RUN = {
    ("how-to/two-plans.md", "inputs       0  1  2  3  4  5  6  7"): "a drawing",
}
"""Blocks that are not run, by page and first line, each with the reason."""

ENVIRONMENT = MappingProxyType({"FLEXCIM_BUILD": str(ROOT / "build")})
"""Builds of simulators are kept with those of all other tests."""

INSTALLER = MappingProxyType({"PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_DEPS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
"""Makes pip install what a page has written with what is there, and nothing from elsewhere. 0 is what turns it off."""


def all_blocks() -> list[Block]:
    return [block for page, text in PAGES.items() for block in blocks_of(page, text)]


def is_run(block: Block) -> bool:
    return (block.page, block.first_line) not in NOT_RUN


def marked(page: str):
    return pytest.param(page, marks=[pytest.mark.regression] if page in SLOW else [])


@pytest.mark.parametrize("page", [marked(page) for page in PAGES])
def test_a_page_does_what_it_says(page, tmp_path):
    blocks = [block for block in blocks_of(page, PAGES[page]) if is_run(block)]
    installs = any("pip install" in block.text for block in blocks if block.language == "sh")
    environment = ENVIRONMENT | (INSTALLER if installs else {})
    run_page(blocks, tmp_path / "page", environment, changes=page in CHANGES)


def test_no_block_is_left_out_by_mistake():
    unknown = [
        block.place
        for block in all_blocks()
        if is_run(block) and block.title is None and block.language not in (*RUNNERS, "text")
    ]
    assert not unknown, f"{', '.join(unknown)}: nothing runs a block of this language; give it a title, or a reason"


def test_what_is_told_apart_is_there():
    assert SLOW.keys() | CHANGES <= PAGES.keys()
    assert NOT_RUN.keys() <= {(block.page, block.first_line) for block in all_blocks()}


# --- Files and names ------------------------------------------------------------------------------------------------

# `folder/file.py`, and behind it what it holds: (`name`, `other`). Code blocks are taken out before.
MENTION = re.compile(r"`(?P<file>[\w.-]+(?:/[\w.-]+)+\.\w+)`(?:\s+\((?P<names>`[^)]*`)\))?")
OURS = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "build"))}


def names_in(path: Path) -> set[str]:
    """What a Python file defines: names and attributes of classes, as ``name`` and as ``Class.name``."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner}" for inner in assigned(node.body)}
        if isinstance(node, ast.Module):
            names |= assigned(node.body)
    return names


def assigned(body: list[ast.stmt]) -> set[str]:
    names = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    for node in body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def wrong_mentions(text: str) -> list[str]:
    """Files and names that a page speaks of and that are not there."""
    wrong = []
    for match in MENTION.finditer(re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)):
        path = ROOT / match["file"]
        if match["file"].split("/")[0] not in OURS or match["file"].split("/")[0] == "models":
            continue
        if not path.is_file():
            wrong.append(match["file"])
        elif match["names"]:
            there = names_in(path)
            wrong += [
                f"{name} in {match['file']}"
                for name in re.findall(r"`([^`]+)`", match["names"])
                if name.removesuffix("()") not in there
            ]
    return wrong


@pytest.mark.parametrize("page", [*PAGES, "glossary.md"])
def test_files_and_names_are_there(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    assert wrong_mentions(text) == []


def test_a_wrong_file_or_name_would_be_seen():
    text = "See `flexcim/config/macro.py` (`MacroConfig`, `MacroConfig.rows`, `PRESETS`,\n`ceil_div()`) and `out/x.v`."
    assert wrong_mentions(text) == []
    text = "See `flexcim/config/macros.py` and `flexcim/config/macro.py` (`MacroConfigs`, `rows`)."
    assert wrong_mentions(text) == [
        "flexcim/config/macros.py",
        "MacroConfigs in flexcim/config/macro.py",
        "rows in flexcim/config/macro.py",
    ]


# --- The way that pages are run -------------------------------------------------------------------------------------


def run_text(text: str, folder: Path) -> None:
    run_page(blocks_of("page", text), folder / "page", {})


def test_a_page_is_run_from_top_to_bottom(tmp_path):
    run_text(
        '```toml title="a/my.toml"\nx = 1\n```\n'
        "Text.\n\n1. A step\n\n    ```sh\n    cat a/my.toml\n    echo also >&2\n    ```\n\n"
        "```text\nx = 1\nalso\n```\n"
        "```python\nprint(2 * 21)\n```\n```text\n42\n```\n"
        '```toml title="pyproject.toml"\n[project]\nname = "flexcim"\n```\n',
        tmp_path,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```sh\nfalse\ntrue\n```\n", "page:1: ended with 1"),
        ("\n```sh\nfalse | true\n```\n", "page:2: ended with 1"),
        ("```python\nprint(x)\n```\n", "(?s)page:1: ended with 1.*NameError"),
        ("```sh\necho 1\n```\n```text\n2\n```\n", "(?s)page:4: shows\n2\n\nbut printed is\n1"),
        ("```text\n2\n```\n", "page:1: shows an output, but nothing was run before it"),
        ('```toml title="pyproject.toml"\nname = "x"\n```\n', r"page:1: quotes what does not stand in pyproject\.toml"),
        ('```toml title="docs/new.toml"\nx = 1\n```\n', r"page:1: would write docs/new\.toml into the checkout"),
        ("```sh linenums=1\ntrue\n```\n", "page:1: a fence has a language and a title, not also 'linenums=1'"),
        ("```sh\ntrue\n", "page: 1 fences do not make 0 blocks"),
    ],
)
def test_a_page_that_is_wrong_is_caught(text, message, tmp_path):
    with pytest.raises(PageError, match=message):
        run_text(text, tmp_path)


@pytest.mark.parametrize(
    ("shown", "same"),
    [
        ("a  1\nb  2\nc  3\n", True),
        ("a  1\n...\n", True),
        ("...\nb  2\n...\n", True),
        ("...\n", True),
        ("a  …\nb  2\n…  3\n", True),
        ("a  1\nc  3\n", False),
        ("a  1\n", False),
        ("b  2\n...\n", False),
        ("a  …\nc  3\n", False),
    ],
)
def test_an_output_is_compared_but_for_what_is_elided(shown, same):
    assert prints("a  1  \nb  2\nc  3\n", shown) is same
