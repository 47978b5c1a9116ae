"""What holds for every module: it imports, offers what it says, and says what it is for."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

from tests.support.repository import ROOT, for_each_package_file, for_each_python_file, module_name, read


@for_each_package_file
def test_a_module_imports_and_has_what_it_offers(path: Path) -> None:
    module = importlib.import_module(module_name(path))
    offered = getattr(module, "__all__", [])
    assert [name for name in offered if not hasattr(module, name)] == []
    assert len(set(offered)) == len(offered), f"{path}: a name stands twice in __all__"


@for_each_python_file
def test_a_module_says_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(read(path)))
    assert docstring, f"{path} has no docstring"
    assert docstring.strip(), f"{path} has an empty docstring"


SLOW_LIBRARIES = {"amaranth", "cocotb", "matplotlib", "scipy", "torch", "transformers"}


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after a statement."""
    script = f"{statement}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in run.stdout.split()}


def test_the_command_starts_without_slow_libraries() -> None:
    loaded = loaded_by("import flexcim.cli.command")
    assert "flexcim" in loaded
    assert not loaded & SLOW_LIBRARIES


def test_a_slow_start_would_be_seen() -> None:
    assert loaded_by("import amaranth") & SLOW_LIBRARIES == {"amaranth"}
