"""The markers by which tests are left out: what they promise is so."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import excluded, markers_of
from tests.support.repository import FOLDERS, ROOT, module_name, python_files, read

HEAVY = {"torch", "transformers"}


def loads(source: str) -> set[str]:
    """What a module imports when it is imported itself, not later in a function; 'from a import b' is a.b and a."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def heavy(modules: dict[str, set[str]]) -> set[str]:
    """The modules that load PyTorch, themselves or by what they load."""
    found: set[str] = set()
    while True:
        more = {
            module
            for module, loaded in modules.items()
            if module not in found and any(name in found or name.partition(".")[0] in HEAVY for name in loaded)
        }
        if not more:
            return found
        found |= more


def conftests(path: Path) -> set[str]:
    """The conftest modules that pytest loads before a file."""
    folders = [folder for folder in path.parents if (ROOT / folder / "conftest.py").exists()]
    return {name_of(folder / "conftest.py") for folder in folders if path.name != "conftest.py"}


def name_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts) if path.parts[0] == "tests" else module_name(path)


def test_a_file_that_loads_torch_says_so() -> None:
    paths = python_files(*FOLDERS, "tests")
    found = heavy({name_of(path): loads(read(path)) | conftests(path) for path in paths})
    tests = [path for path in paths if path.name.startswith("test_")]
    marked = {path for path in tests if "torch" in markers_of(ROOT / path)}
    loading = {path for path in tests if name_of(path) in found}
    assert loading - marked == set(), "these load PyTorch, so they need 'pytestmark = pytest.mark.torch'"
    assert loading


def test_a_file_that_loads_torch_would_be_seen() -> None:
    modules = {"a": loads("from b import c"), "b.c": loads("import torch.nn"), "d": loads("def f():\n    import torch")}
    assert heavy(modules) == {"a", "b.c"}


def test_the_quick_tests_load_no_torch_and_start_no_simulator() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "pytest", "--collect-only", "-q"]
    command += ["-m", "not simulator and not torch", "tests/flow", "tests/sim"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in run.stderr.splitlines()}
    assert "pytest" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("program", ["iverilog", "make"])
def test_a_test_without_the_marker_starts_no_simulator(program: str) -> None:
    with pytest.raises(RuntimeError, match="marker 'simulator'"):
        subprocess.run([program, "--version"], check=False)


@pytest.mark.parametrize(
    ("expression", "markers"),
    [
        ("not torch", {"torch"}),
        ("not simulator and not torch", {"simulator", "torch"}),
        ("not torch or slow", set()),
        ("not (torch or slow)", set()),
        ("regression", set()),
    ],
)
def test_only_plain_exclusions_leave_files_unopened(expression: str, markers: set[str]) -> None:
    assert excluded(expression) == markers
