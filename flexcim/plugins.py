"""What other packages add to FlexCiM by entry points: found by their metadata alone, imported when it is used.

A package adds a thing by a line in its ``pyproject.toml``, under the name by which users will call the thing::

    [project.entry-points."flexcim.commands"]
    wave = "acme.wave:wave"
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

from flexcim.errors import FlexCiMError

__all__ = ["PluginError", "discovered", "loaded", "provider"]


class PluginError(FlexCiMError):
    """An entry point that cannot be used; the message names it, its group and the package that has it."""


def discovered(group: str, taken: Container[str] = ()) -> Mapping[str, EntryPoint]:
    """Find what the installed packages add to a group. Nothing of them is imported.

    Parameters
    ----------
    group : str
        The group of entry points, such as ``flexcim.commands``.
    taken : container of str
        The names that FlexCiM itself has in this group.

    Returns
    -------
    mapping of str to EntryPoint
        By name, in alphabetical order.

    Raises
    ------
    PluginError
        If a name is taken, or added twice: nobody could say which of the two a user means.
    """
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: (entry.name, provider(entry))):
        if entry.name in taken:
            raise PluginError(
                f"{provider(entry)} adds {entry.name!r} to {group}, a name that FlexCiM itself has there; "
                "uninstall that package"
            )
        if entry.name in found:
            raise PluginError(
                f"{provider(found[entry.name])} and {provider(entry)} both add {entry.name!r} to {group}; "
                "uninstall one of them"
            )
        found[entry.name] = entry
    return MappingProxyType(found)


def loaded(entry: EntryPoint) -> Any:
    """Import what an entry point stands for.

    Raises
    ------
    PluginError
        If that fails, for whatever reason: the code is not FlexCiM's.
    """
    try:
        return entry.load()
    except Exception as error:
        reason = " ".join(str(error).split())
        raise PluginError(
            f"{provider(entry)} adds {entry.name!r} to {entry.group}, but {entry.value} cannot be loaded "
            f"({type(error).__name__}{f': {reason}' if reason else ''})"
        ) from error


def provider(entry: EntryPoint) -> str:
    """The package that has an entry point, as messages name it: ``acme 1.0``."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown package"
