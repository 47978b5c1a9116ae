"""Pages of the documentation as programs: their code blocks, what runs them, and what they claim to print.

A page is run from top to bottom in a fresh folder, which holds links to what a checkout has at its top level, or a copy
of the checkout for a page that changes it:

- a block with a title is a file: it is written, or, if the checkout has that file, quoted from it, to the letter;
- ``sh`` is run by bash, ``python`` without a title by Python, each of them to its end and without an error;
- ``text`` is what the block before it prints, both outputs in one as in a terminal. In it ``...`` as a line stands for
  any lines, ``…`` for anything within a line; blanks at the ends of lines do not count.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.repository import ROOT, repository_files

__all__ = ["Block", "PageError", "blocks_of", "prints", "run_page"]

RUNNERS = {"sh": ["bash", "-euo", "pipefail"], "python": ["python"]}
"""What runs a block of a language, given the file that it was written to."""

FENCE = re.compile(
    r'^(?P<indent> *)```(?P<language>[\w+-]*)(?: title="(?P<title>[^"]+)")?(?P<rest>[^\n]*)\n'
    r"(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


class PageError(AssertionError):
    """A page that does not do what it says; the message names page, line and what happened."""


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Parameters
    ----------
    page : str
        The page.
    line : int
        The line of its fence, counted from 1.
    language : str
        As the fence says; empty if it does not.
    title : str or None
        The file that it shows.
    text : str
        What is between the fences, without the indent of the fence.
    """

    page: str
    line: int
    language: str
    title: str | None
    text: str

    @property
    def place(self) -> str:
        """Page and line, as messages name them."""
        return f"{self.page}:{self.line}"

    @property
    def first_line(self) -> str:
        """Its first line."""
        return self.text.split("\n", 1)[0]


def blocks_of(page: str, text: str) -> list[Block]:
    """The code blocks of a page in order.

    Raises
    ------
    PageError
        If a fence has more behind it than a language and a title, or has no end.
    """
    blocks = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match["rest"]:
            raise PageError(f"{page}:{line}: a fence has a language and a title, not also {match['rest'].strip()!r}")
        code = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        blocks.append(Block(page, line, match["language"], match["title"], code))
    fences = len(re.findall(r"^ *```", text, flags=re.MULTILINE))
    if fences != 2 * len(blocks):
        raise PageError(f"{page}: {fences} fences do not make {len(blocks)} blocks")
    return blocks


def prints(printed: str, shown: str) -> bool:
    """Whether an output is the one that a page shows."""
    lines = [line.rstrip() for line in printed.strip("\n").splitlines()]
    pattern = ""
    for line in shown.rstrip("\n").splitlines():
        exact = ".*".join(map(re.escape, line.rstrip().split("…")))
        pattern += r"(?:.*\n)*?" if line.strip() == "..." else exact + r"\n"
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in lines)) is not None


def run_page(blocks: list[Block], folder: Path, environment: Mapping[str, str], *, changes: bool = False) -> None:
    """Run a page in a folder, which is made.

    Parameters
    ----------
    blocks : list of Block
        The page's blocks that are to be run.
    folder : Path
        Where.
    environment : mapping of str to str
        Variables of the environment that are set besides; with ``PIP_...`` among them, the page installs packages, and
        gets a Python environment of its own that sees all packages of this one.
    changes : bool
        Whether the page changes the checkout. It then gets a copy of it, and runs that.

    Raises
    ------
    PageError
        If a block fails, prints something else than the page shows, or quotes what is not in its file.
    """
    folder.mkdir(parents=True)
    settings = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"}
    if changes:
        for path in repository_files():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, folder / path)
        settings["PYTHONPATH"] = os.pathsep.join(str(folder / wing) for wing in (".", "hw", "flow", "sim"))
    else:
        for name in {path.parts[0] for path in repository_files()}:
            (folder / name).symlink_to(ROOT / name)
    programs = Path(sys.executable).parent
    if any(name.startswith("PIP_") for name in environment):
        programs = _own_environment(folder / ".venv")
    variables = {**os.environ, **settings, **environment, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    printed: str | None = None
    for number, block in enumerate(blocks):
        if block.title is not None:
            _put_file(block, folder)
        elif block.language == "text":
            if printed is None:
                raise PageError(f"{block.place}: shows an output, but nothing was run before it")
            if not prints(printed, block.text):
                raise PageError(f"{block.place}: shows\n{block.text}\nbut printed is\n{printed}")
        else:
            script = folder / f".block-{number}"
            script.write_text(block.text, encoding="utf-8")
            printed = _run(block, [*RUNNERS[block.language], str(script)], folder, variables)


def _put_file(block: Block, folder: Path) -> None:
    """Write the file that a block shows; if the checkout has it, look for the block in it instead."""
    assert block.title is not None
    kept = ROOT / block.title
    if not kept.is_file():
        path = folder / block.title
        if not path.resolve().is_relative_to(folder.resolve()):
            raise PageError(f"{block.place}: would write {block.title} into the checkout")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
    elif block.text not in kept.read_text(encoding="utf-8"):
        raise PageError(f"{block.place}: quotes what does not stand in {block.title}")


def _run(block: Block, command: list[str], folder: Path, variables: Mapping[str, str]) -> str:
    """What a block prints."""
    ran = subprocess.run(
        command,
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    if ran.returncode:
        raise PageError(f"{block.place}: ended with {ran.returncode}:\n{block.text}\n{ran.stdout}")
    return ran.stdout


def _own_environment(folder: Path) -> Path:
    """Make a Python environment that sees all packages of this one, and return the folder of its programs."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    # It finds what is installed here, and what an editable installation refers to.
    (site / "borrowed.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    programs = folder / "bin"
    for name, module in {"flexcim": "flexcim.cli", "pip": "pip._internal.cli.main"}.items():
        program = programs / name
        program.write_text(f"#!{programs / 'python'}\nimport sys\nfrom {module} import main\nsys.exit(main())\n")
        program.chmod(0o755)
    return programs
