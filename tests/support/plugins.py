"""Packages that add something to FlexCiM, installed into a folder as an installer would leave them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["install_plugin"]


def install_plugin(site: Path, package: str, group: str, entries: Mapping[str, str], source: str | None = None) -> None:
    """Write what the installation of a package leaves behind.

    Parameters
    ----------
    site : Path
        The folder that packages are installed into; to be found, it must be on the path.
    package : str
        Name of the package, whose version is 1.0.
    group : str
        The group of its entry points.
    entries : mapping of str to str
        What each entry point stands for, by name: ``module:attribute``.
    source : str, optional
        Text of the package's one module, which has the package's name.
    """
    metadata = site / f"{package}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = (f"{name} = {value}\n" for name, value in entries.items())
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{''.join(lines)}")
    if source is not None:
        (site / f"{package}.py").write_text(source)
