"""Where the repository lies, if there is one, and where builds are kept."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flexcim import checkout as module
from flexcim.checkout import build_folder, checkout


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


def test_builds_lie_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("FLEXCIM_BUILD", str(tmp_path / "elsewhere"))
    assert build_folder("sim") == tmp_path / "elsewhere" / "sim"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLEXCIM_BUILD", "near")
    assert build_folder("sim") == tmp_path / "near" / "sim"


def test_builds_of_a_checkout_lie_in_it(monkeypatch, tmp_path):
    monkeypatch.delenv("FLEXCIM_BUILD", raising=False)
    monkeypatch.chdir(tmp_path)
    assert build_folder("sim") == Path(__file__).resolve().parents[2] / "build" / "sim"


@pytest.mark.parametrize(
    ("cache", "wanted"), [("{tmp}/cache", "cache"), (None, "home/.cache"), ("", "home/.cache"), ("near", "home/.cache")]
)
def test_builds_of_an_installed_package_lie_in_the_users_cache(monkeypatch, tmp_path, cache, wanted):
    """A relative path in XDG_CACHE_HOME is to be ignored."""
    monkeypatch.delenv("FLEXCIM_BUILD", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(module, "checkout", lambda: None)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if cache is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", cache.replace("{tmp}", str(tmp_path)))
    assert build_folder("sim") == tmp_path / wanted / "flexcim" / "sim"
