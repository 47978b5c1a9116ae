"""What may stand in a file, how large the shipped models are, and that scripts can be run."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.repository import ROOT, read, repository_files

MODELS_LIMIT_BYTES = 12_000_000


# The patterns are written so that they do not find themselves.
BANNED_TEXT = {
    "an absolute path of a machine": re.compile(r"(?<![\w.~-])/(?:farm|home|mnt|root|work|Users)(?![\w-])"),
    "a word for unfinished work": re.compile(r"\b(?:TO[D]O|FIX[M]E|X[X]X|HA[C]K)\b"),
    "the host of a package registry": re.compile(
        r"\b(?:pypi\.(?:org|python)|pythonhosted\.org|download\.pytorch\.org|anaconda\.org|npmjs\.(?:org|com)|crates\.io"
        r"|(?:deb|ftp)\.debian\.org|archive\.ubuntu\.com)"
    ),
}


def banned_text(text: str) -> list[str]:
    """Line and kind of each thing in a text that must not be there."""
    return [
        f"line {number}: {kind}: {line.strip()[:100]}"
        for number, line in enumerate(text.splitlines(), start=1)
        for kind, pattern in BANNED_TEXT.items()
        if pattern.search(line)
    ]


def text_of(path: Path) -> str:
    """The text of a file, nothing for a binary one."""
    try:
        return read(path)
    except UnicodeDecodeError:
        return ""


def test_no_file_holds_what_belongs_to_a_machine_or_to_later() -> None:
    found = {str(path): lines for path in repository_files() if (lines := banned_text(text_of(path)))}
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        "path = '/" + "home/someone/flexcim'",
        "cd /" + "root",
        "# TO" + "DO: later",
        "--index-url https://py" + "pi.org/simple",
    ],
)
def test_the_text_rule_finds_what_is_banned(line: str) -> None:
    assert len(banned_text(f"fine\n{line}\n")) == 1


@pytest.mark.parametrize(
    "line", ["a/home/b and ./root/c", "https://example.org/home/", "work/flow", "TODOS", "/workload", "f / root"]
)
def test_the_text_rule_lets_pass_what_is_harmless(line: str) -> None:
    assert banned_text(line) == []


def test_the_models_stay_small() -> None:
    size = sum((ROOT / path).stat().st_size for path in repository_files() if path.parts[0] == "models")
    assert size <= MODELS_LIMIT_BYTES, f"models/ has {size / 1e6:.1f} MB, {MODELS_LIMIT_BYTES / 1e6:.0f} are allowed"


@pytest.mark.parametrize("name", ["scripts/setup", "scripts/demo", "scripts/test", "scripts/regression", ".ci/run"])
def test_a_script_can_be_run(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)
    subprocess.run(["bash", "-n", name], cwd=ROOT, check=True)
