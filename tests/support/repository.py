"""The files of the repository, as the tests of the house see them."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = ("flexcim", "flexcim_flow", "flexcim_hw", "flexcim_sim")
FOLDERS = ("flexcim", "flow", "hw", "sim")
"""Where the packages lie."""


@cache
def repository_files() -> tuple[Path, ...]:
    """All files that are in the repository, or will be with the next commit, relative to its root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode == 0:
        paths = [Path(name) for name in listing.stdout.split("\0") if name]
        return tuple(path for path in paths if (ROOT / path).is_file())
    # An unpacked archive has no git: take everything but what set-up and caches have put there.
    paths = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
    made = {".venv", "build", "dist", "__pycache__"}
    return tuple(path for path in paths if not made.intersection(path.parts))


def python_files(*folders: str) -> list[Path]:
    """The Python files in these folders, in order."""
    return sorted(path for path in repository_files() if path.suffix == ".py" and path.parts[0] in folders)


def module_name(path: Path) -> str:
    """The dotted name by which a file is imported: hw/flexcim_hw/macro/macro.py is flexcim_hw.macro.macro."""
    parts = path.with_suffix("").parts
    parts = parts if parts[0] in PACKAGES else parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def by_path(path: Path) -> str:
    return path.as_posix()


def read(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


PACKAGE_FILES = python_files(*FOLDERS)
for_each_package_file = pytest.mark.parametrize("path", PACKAGE_FILES, ids=by_path)
for_each_python_file = pytest.mark.parametrize(
    "path", python_files(*FOLDERS, "examples", "tests", "scripts"), ids=by_path
)
