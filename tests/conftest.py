"""What holds for all tests: interrupts, and the markers by which tests are left out."""

from __future__ import annotations

import re
import signal
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

# A shell lets what it starts in the background ignore the interrupt, and processes hand that on to those they start.
# Tests that interrupt a process would then wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REGRESSION = "regression"
SIMULATORS = {"g++", "iverilog", "make", "verilator", "vvp"}

may_simulate = True


def pytest_configure(config: pytest.Config) -> None:
    """Leave the regression out of whatever does not ask for it, also where ``-m`` chooses by other markers."""
    expression = str(config.option.markexpr)
    if REGRESSION not in expression:
        config.option.markexpr = f"{expression} and not {REGRESSION}" if expression else f"not {REGRESSION}"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave what holds excluded tests alone unopened: importing PyTorch takes seconds, and a conftest may do it."""
    left_out = excluded(str(config.option.markexpr))
    files = sorted(collection_path.rglob("test_*.py")) if collection_path.is_dir() else [collection_path]
    tests = [path for path in files if path.name.startswith("test_")]
    return True if left_out and tests and all(markers_of(path) & left_out for path in tests) else None


def excluded(expression: str) -> frozenset[str]:
    """The markers that a choice excludes, if it is nothing but exclusions."""
    if not re.fullmatch(r"not \w+(?: and not \w+)*", expression):
        return frozenset()
    return frozenset(re.findall(r"not (\w+)", expression))


@cache
def markers_of(path: Path) -> frozenset[str]:
    """The markers that a file gives all its tests."""
    found = re.search(r"^pytestmark = (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return frozenset(re.findall(r"pytest\.mark\.(\w+)", found[1])) if found else frozenset()


def pytest_runtest_setup(item: pytest.Item) -> None:
    global may_simulate
    may_simulate = item.get_closest_marker("simulator") is not None


def _refuse_simulators(event: str, arguments: tuple[Any, ...]) -> None:
    """Hold the marker ``simulator``: tests without it start no simulator and no compiler."""
    if event == "subprocess.Popen" and not may_simulate and Path(arguments[0] or arguments[1][0]).name in SIMULATORS:
        raise RuntimeError(f"a test that starts {arguments[0]} needs the marker 'simulator'")


sys.addaudithook(_refuse_simulators)
