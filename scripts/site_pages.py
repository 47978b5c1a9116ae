"""Pages of the documentation site that are made and not written: the API reference, and two pages from the root.

mkdocs calls the two functions here while it builds (``hooks`` in mkdocs.yml). The reference has a page for each room of
the house, that is each folder of a package, with the modules in it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
WINGS = {"flexcim": "flexcim", "flexcim_hw": "hw/flexcim_hw", "flexcim_flow": "flow/flexcim_flow"}
WINGS["flexcim_sim"] = "sim/flexcim_sim"


def rooms() -> Iterator[tuple[str, list[str]]]:
    """Each room's dotted name, with the dotted names of its modules; the wing's own first."""
    for wing, folder in WINGS.items():
        top = ROOT / folder
        inits = sorted(top.rglob("__init__.py"), key=lambda path: (path.parent != top, path.parent.as_posix()))
        for init in inits:
            room = ".".join([wing, *init.parent.relative_to(top).parts])
            modules = [path for path in sorted(init.parent.glob("*.py")) if not path.name.startswith("__")]
            if modules:
                yield room, [f"{room}.{path.stem}" for path in modules]


def purpose(room: str) -> str:
    """The first paragraph of a room's docstring, on one line."""
    wing, *parts = room.split(".")
    source = (ROOT / WINGS[wing]).joinpath(*parts, "__init__.py").read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(source)) or ""
    return " ".join(docstring.split("\n\n")[0].split())


def reference() -> dict[str, str]:
    """The pages of the reference by their paths: its table of contents, then the rooms."""
    contents = ["# API reference", "", "A page for each room of the house, made from the docstrings.", ""]
    contents += ["| room | what is in it |", "|---|---|"]
    pages = {"reference/index.md": ""}
    for room, modules in rooms():
        contents.append(f"| [`{room}`]({room}.md) | {purpose(room)} |")
        blocks = [f"::: {module}\n    options:\n      heading_level: 2\n" for module in modules]
        pages[f"reference/{room}.md"] = "\n".join([f"# `{room}`", "", purpose(room), "", *blocks])
    pages["reference/index.md"] = "\n".join([*contents, ""])
    return pages


def from_root() -> dict[str, str]:
    """The changelog and the contributor's guide, whose links point into docs/ from outside."""
    names = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
    return {page: (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](") for page, name in names.items()}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put a page for each room into the navigation, wing by wing."""
    (section,) = (entry["Reference"] for entry in config.nav or [] if "Reference" in entry)
    for wing in WINGS:
        pages = [{room: f"reference/{room}.md"} for room, _ in rooms() if room.split(".")[0] == wing]
        section.append({wing: pages})
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    for path, content in {**reference(), **from_root()}.items():
        files.append(File.generated(config, path, content=content))
    return files
