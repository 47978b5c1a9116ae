"""The wheel with all extras, away from the repository: a model is pruned and written with, and a macro is verified."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.clean_environment import CleanEnvironment

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.regression, pytest.mark.slow]


@pytest.fixture(scope="module")
def everything(wheel, tmp_path_factory):
    """An environment with all extras."""
    return CleanEnvironment(tmp_path_factory.mktemp("all"), wheel, ["all"])


def test_a_macro_is_verified_and_its_build_kept_in_the_cache(everything, tmp_path):
    folder, cache = tmp_path / "project", tmp_path / "cache"
    folder.mkdir()
    words = ["flexcim", "verify", "--preset", "board", "--seed", "1", "--simulator", "both", "-o", "out"]
    ran = everything.run(*words, cwd=folder, XDG_CACHE_HOME=str(cache))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    verifications = json.loads((folder / "out" / "results.json").read_text())["verifications"]
    assert {one["simulator"] for one in verifications} == {"verilator", "icarus"}
    assert [path.name for path in folder.iterdir()] == ["out"]
    assert list((cache / "flexcim" / "sim").iterdir())


def test_a_model_is_pruned_and_written_with(everything, tmp_path):
    shutil.copytree(ROOT / "models" / "llama-kjv", tmp_path / "model")
    prune = ["flexcim", "prune", "model", "--sparsity", "0.5", "--method", "uniform", "--samples", "4", "-o", "pruned"]
    ran = everything.run(*prune, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    here = everything.run(
        *prune[:-1], "again", "--calibration", str(ROOT / "models/text/calibration.txt"), cwd=tmp_path
    )
    assert here.returncode == 0, here.stderr
    plans = [(tmp_path / name / "plan.toml").read_bytes() for name in ("pruned", "again")]
    assert plans[0] == plans[1], "the wheel's text must be the repository's"
    words = ["generate-text", "--model", "pruned", "--prompt", "In the beginning", "--tokens", "4"]
    written = everything.run("flexcim", *words, cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    assert written.stdout.startswith("In the beginning")
