"""Where the repository lies, if there is one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from flexcim import checkout as module
from flexcim.checkout import checkout


def test_these_tests_run_in_a_checkout():
    assert checkout() == Path(__file__).resolve().parents[2]


def test_packages_side_by_side_are_no_checkout(tmp_path):
    """Not even beside somebody's pyproject.toml and folder of simulations."""
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "sim").mkdir()
    for package in ("flexcim", "flexcim_sim"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    shutil.copy(module.__file__, tmp_path / "flexcim")
    script = "from flexcim.checkout import checkout; print(checkout())"
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout == "None\n"
