"""Each dependency has its reason beside it, and a version that the tests ran with."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.repository import read

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
        if name == "flexcim":  # an extra made of others
            continue
        versions = [next(iter(pin.specifier)).version for pin in pins if canonicalize_name(pin.name) == name]
        assert versions, f"constraints.txt has no version of {name}"
        assert all(version in requirement.specifier for version in versions), f"{name}: {versions} not in {requirement}"
