"""Things that users call by name: FlexCiM's own, and those that other packages add."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

from flexcim.errors import FlexCiMError
from flexcim.plugins import PluginError, discovered, loaded, provider

__all__ = ["Registry", "UnknownNameError"]

_Thing = TypeVar("_Thing")


class UnknownNameError(FlexCiMError):
    """A name that nothing has; the message is one sentence with the names that there are."""


class Registry(Generic[_Thing]):
    """All things of one kind by name, in order: FlexCiM's own, then those that other packages add.

    A thing is imported when it is asked for, so that a list of names takes no slow library.

    Parameters
    ----------
    kind : str
        What a thing is called in messages, such as ``score``.
    expected : type
        What each thing must be an instance of.
    group : str
        The group of entry points by which other packages add one.
    own : mapping of str to str
        FlexCiM's own by name, each as ``module:attribute``.
    renamed : mapping of str to str, optional
        Names of former versions, and what they are called now.
    """

    def __init__(
        self,
        kind: str,
        expected: type[_Thing],
        group: str,
        own: Mapping[str, str],
        renamed: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._kind = kind
        self._expected = expected
        self._group = group
        self._renamed = renamed
        self.own = MappingProxyType(dict(own))

    def __iter__(self) -> Iterator[str]:
        """The names.

        Raises
        ------
        PluginError
            If two packages have the same one.
        """
        yield from self.own
        yield from discovered(self._group, self.own)

    def __getitem__(self, name: str) -> _Thing:
        """The thing of this name.

        Raises
        ------
        UnknownNameError
            If there is none.
        PluginError
            If another package has it, and it cannot be loaded or is no thing of this kind.
        """
        if name in self.own:
            own: _Thing = pkgutil.resolve_name(self.own[name])
            return own
        self.check(name)
        entry = discovered(self._group, self.own)[name]
        thing = loaded(entry)
        if not isinstance(thing, self._expected):
            raise PluginError(
                f"{provider(entry)} adds {name!r} to {self._group}, but {entry.value} is of type "
                f"{type(thing).__name__}, not {self._expected.__name__}"
            )
        return thing

    def check(self, name: object) -> str:
        """Make sure that something has this name, and give it back; nothing is imported.

        Raises
        ------
        UnknownNameError
            If nothing has it.
        """
        if isinstance(name, str):
            if name in self.own:
                return name
            if name in self._renamed:
                raise UnknownNameError(f"the {self._kind} {name!r} is called {self._renamed[name]!r} now")
            if name in discovered(self._group, self.own):
                return name
        raise UnknownNameError(f"{self._kind} must be one of {', '.join(self)}, not {name!r}")
