"""Environments with a wheel in them and exactly what its metadata asks for, made without network.

What the wheel depends on is not downloaded and not installed: the environment gets links to the packages of the
interpreter that runs the tests, to those only that the wheel's requirements lead to. So whatever a wheel needs without
saying so is missing there. Whether an index offers versions that fit together is not tested.
"""

from __future__ import annotations

import email
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["CleanEnvironment", "wheel_metadata"]


def wheel_metadata(wheel: Path) -> email.message.Message:
    """The METADATA of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


class CleanEnvironment:
    """A virtual environment with a wheel, and with links to what it depends on.

    Parameters
    ----------
    folder : Path
        Where it is made.
    wheel : Path
        The wheel.
    extras : sequence of str
        The wheel's extras that are wanted.
    """

    def __init__(self, folder: Path, wheel: Path, extras: Sequence[str] = ()) -> None:
        self.scripts = folder / "bin"
        self.python = self.scripts / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.site = Path(self.run(self.python, "-c", "import site; print(*site.getsitepackages())").stdout.strip())
        requirements = map(Requirement, wheel_metadata(wheel).get_all("Requires-Dist", []))
        for installed in _closure(_wanted(requirements, extras)):
            _link(installed, self.site)
        self._pip("install", "--no-index", "--no-deps", str(wheel))
        self._pip("check")

    def run(self, *command: str | Path, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command as somebody does who has activated the environment; an error is the caller's to look at."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FLEXCIM"))}
        path = f"{self.scripts}{os.pathsep}{kept.get('PATH', os.defpath)}"
        environment = {**kept, "PATH": path, "COLUMNS": "200", **variables}
        return subprocess.run(
            [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )

    def _pip(self, *words: str) -> None:
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", self.python)
        ran = self.run(*pip, *words)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def _wanted(requirements: Iterable[Requirement], extras: Iterable[str]) -> list[Requirement]:
    """The requirements that hold here, with these extras."""
    environments = [{"extra": extra} for extra in ("", *extras)]
    return [one for one in requirements if one.marker is None or any(map(one.marker.evaluate, environments))]


def _closure(requirements: Iterable[Requirement]) -> list[Distribution]:
    """The installed packages that requirements lead to."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    open_ = list(requirements)
    while open_:
        requirement = open_.pop()
        name = canonicalize_name(requirement.name)
        key = (name, ",".join(sorted(requirement.extras)))
        if key not in seen:
            seen.add(key)
            found[name] = distribution(name)
            open_ += _wanted(map(Requirement, found[name].requires or ()), requirement.extras)
    return list(found.values())


def _link(installed: Distribution, site: Path) -> None:
    """Link the folders and modules of an installed package, and its metadata, into a folder."""
    assert installed.files is not None, f"{installed.name} does not say which files it has"
    for top in {file.parts[0] for file in installed.files} - {"..", "__pycache__"}:
        source = Path(str(installed.locate_file(top))).resolve()
        if source.exists() and not (site / top).exists():
            (site / top).symlink_to(source)
