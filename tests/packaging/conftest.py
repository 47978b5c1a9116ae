"""The wheel, built once: the repository becomes a source distribution, and that becomes the wheel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def build(source: Path, kind: str, folder: Path) -> Path:
    """Build a distribution by the backend itself, without network."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="session")
def source_archive(tmp_path_factory):
    """The source distribution."""
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="session")
def unpacked(source_archive, tmp_path_factory):
    """The source distribution's one folder."""
    folder = tmp_path_factory.mktemp("unpacked")
    subprocess.run(["tar", "xzf", str(source_archive), "-C", str(folder)], check=True)
    (root,) = folder.iterdir()
    return root


@pytest.fixture(scope="session")
def wheel(unpacked, tmp_path_factory):
    """The wheel that the source distribution makes."""
    return build(unpacked, "wheel", tmp_path_factory.mktemp("wheel"))
