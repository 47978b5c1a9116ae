"""Parameters as a registry: a field of a configuration is one row, which checks, files, tables and tests all read.

A new parameter is one field, its kind the annotation::

    saturate: bool = parameter(False, "clamp sums to 24 bits")
    guard_bits: int = parameter(4, "bits above the widest sum", low=0, high=8)

It is then checked with a sentence of its own, read from TOML and written to it, listed by ``flexcim presets``, and has
to stand in the contract's table. Relations between parameters are no rows; they are statements in `check_relations`.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

from flexcim.config.errors import ConfigError
from flexcim.config.pattern import Pattern

__all__ = ["ANY", "Configuration", "Parameter", "parameter", "parameters", "toml_text"]

_MENU = tuple[Pattern, ...]
ANY = "–"
"""What a table shows where there is nothing to say."""


def parameter(
    default: Any,
    meaning: str,
    *,
    symbol: str = ANY,
    low: int | None = None,
    high: int | None = None,
    power_of_two: bool = False,
    choices: Sequence[str] = (),
    follows: str = "",
) -> Any:
    """A field of a `Configuration`, with its row of the registry; what the arguments mean is said at `Parameter`."""
    row = {
        "meaning": meaning,
        "symbol": symbol,
        "low": low,
        "high": high,
        "power_of_two": power_of_two,
        "choices": tuple(choices),
        "follows": follows,
    }
    return dataclasses.field(default=default, metadata=row)


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One row: what is known of a parameter.

    Parameters
    ----------
    name : str
        Its name in code and TOML.
    kind : type
        The field's annotation: ``int``, ``bool``, ``str`` (one of ``choices``), ``tuple[Pattern, ...]`` (a menu) or
        another `Configuration`.
    default : object
        Its value where none is given.
    meaning : str
        One line that says what it is.
    symbol : str
        Its symbol in formulas.
    low, high : int
        The least and the largest value; each integer has both.
    power_of_two : bool
        Whether it must be a power of two.
    choices : tuple of str
        The words that it may be.
    follows : str
        The parameter whose value it takes where it is ``None``; empty if it has a default of its own.

    Raises
    ------
    TypeError
        If the kind is none of these, or the row lacks what the kind needs.
    """

    name: str
    kind: Any
    default: Any
    meaning: str
    symbol: str
    low: int | None
    high: int | None
    power_of_two: bool
    choices: tuple[str, ...]
    follows: str

    def __post_init__(self) -> None:
        if self.kind is int and (self.low is None or self.high is None):
            raise TypeError(f"the parameter {self.name} is an integer, so it needs low and high")
        if self.kind is str and not self.choices:
            raise TypeError(f"the parameter {self.name} is a word, so it needs choices")
        if self.kind not in (int, bool, str, _MENU) and not self.is_table:
            raise TypeError(f"the parameter {self.name} is of a kind that no rule is known for, {self.kind}")

    @property
    def is_table(self) -> bool:
        """Whether it is a configuration itself."""
        return isinstance(self.kind, type) and issubclass(self.kind, Configuration)

    # -- rules ---------------------------------------------------------------------------------------------------------

    def read(self, value: Any) -> Any:
        """The value as the configuration holds it.

        Raises
        ------
        TypeError
            If it is of the wrong kind.
        ConfigError
            If a menu names what is no pattern.
        """
        if self.kind is int and (not isinstance(value, int) or isinstance(value, bool)):
            raise TypeError(f"{self.name} must be an integer, not {value!r}")
        if self.kind is bool and not isinstance(value, bool):
            raise TypeError(f"{self.name} must be true or false, not {value!r}")
        if self.is_table and not isinstance(value, self.kind):
            raise TypeError(f"{self.name} must be a {self.kind.__name__}, not {value!r}")
        return self._menu(value) if self.kind == _MENU else value

    def _menu(self, value: Any) -> tuple[Pattern, ...]:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise TypeError(f"{self.name} must be a list such as ['1:1', '4:8'], not {value!r}")
        try:
            return tuple(item if isinstance(item, Pattern) else Pattern.parse(item) for item in value)
        except ValueError as error:
            raise ConfigError(f"{self.name}: {error}") from None

    def check(self, value: Any) -> None:
        """Raise ConfigError unless a value that `read` gave is in the range, or one of the choices."""
        if self.choices and value not in self.choices:
            raise ConfigError(f"{self.name} must be one of {', '.join(self.choices)}, not {value!r}")
        if self.low is None or self.high is None:
            return
        within = self.low <= value <= self.high
        if self.power_of_two and not (within and value.bit_count() == 1):
            raise ConfigError(f"{self.name} must be a power of two from {self.low} to {self.high}, not {value}")
        if not within:
            raise ConfigError(f"{self.name} must be between {self.low} and {self.high}, not {value}")

    def plain(self, value: Any) -> Any:
        """The value as TOML and JSON can hold it."""
        if self.is_table:
            return value.to_mapping()
        return list(map(str, value)) if self.kind == _MENU else value

    # -- tables --------------------------------------------------------------------------------------------------------

    @property
    def range_text(self) -> str:
        """The values that it may have, as a table shows them: both ends, all words, or nothing for a menu."""
        if self.kind is bool:
            return "true, false"
        if self.choices:
            return ", ".join(self.choices)
        return f"{self.low} – {self.high}" if self.kind is int else ANY

    @property
    def default_text(self) -> str:
        """Its default, as a table shows it; of a configuration nothing."""
        if self.follows:
            return self.follows
        if self.is_table:
            return ANY
        return " ".join(map(str, self.default)) if self.kind == _MENU else toml_text(self.default)


def toml_text(value: bool | int | str) -> str:
    """A number, a switch or a word as TOML has it, but a word without its quotation marks."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def parameters(kind: type[Configuration]) -> tuple[Parameter, ...]:
    """All rows of a configuration, in the order of its fields.

    Parameters
    ----------
    kind : type
        The class of the configuration.

    Raises
    ------
    TypeError
        If a field is no `parameter`, or its row lacks what its kind needs.
    """
    hints = get_type_hints(kind)
    rows = []
    for field in dataclasses.fields(kind):
        if "meaning" not in field.metadata:
            raise TypeError(f"the field {field.name} of {kind.__name__} is no parameter(...)")
        rows.append(Parameter(name=field.name, kind=hints[field.name], default=field.default, **field.metadata))
    return tuple(rows)


_Config = TypeVar("_Config", bound="Configuration")


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A frozen set of parameters. Each is checked by its row when the configuration is made, then all by the relations
    between them.

    Raises
    ------
    TypeError
        If a parameter is of the wrong kind.
    ConfigError
        If one is out of its range, or a relation is broken; the message names the values.
    """

    def __post_init__(self) -> None:
        rows = parameters(type(self))
        for row in rows:
            value = getattr(self, row.name)
            if value is None and row.follows:
                value = getattr(self, row.follows)
            object.__setattr__(self, row.name, row.read(value))
        for row in rows:
            row.check(getattr(self, row.name))
        self.check_relations()

    def check_relations(self) -> None:
        """Raise ConfigError unless the parameters go together; each is in its own range already."""

    @classmethod
    def from_mapping(cls: type[_Config], values: Mapping[str, Any], base: _Config | None = None) -> _Config:
        """Make a configuration from plain values, the others taken from ``base`` (by default, the defaults).

        A parameter that follows another one in ``base`` goes on to do so.

        Parameters
        ----------
        values : mapping
            Parameters by name, as TOML holds them.
        base : Configuration, optional
            Where the others come from.

        Raises
        ------
        ConfigError
            If a key is unknown, or a rule is broken.
        """
        rows = {row.name: row for row in parameters(cls)}
        given = dict(values)
        base = base or cls()
        for name, value in values.items():
            if name not in rows:
                raise _unknown(name, list(rows))
            if rows[name].is_table:
                if not isinstance(value, Mapping):
                    raise ConfigError(f"{name} must be a table, not {value!r}")
                given[name] = rows[name].kind.from_mapping(value, base=getattr(base, name))
        for row in rows.values():
            # Without this, what followed in the base would outlive a change of what it followed.
            if row.follows in given and getattr(base, row.name) == getattr(base, row.follows):
                given.setdefault(row.name, None)
        try:
            return dataclasses.replace(base, **given)
        except TypeError as error:
            raise ConfigError(str(error)) from None

    def to_mapping(self) -> dict[str, Any]:
        """All parameters as plain values, patterns as strings; ``from_mapping`` reads them back."""
        return {row.name: row.plain(getattr(self, row.name)) for row in parameters(type(self))}


def _unknown(name: str, known: Sequence[str]) -> ConfigError:
    """The error that names a parameter which there is not, and the one that was probably meant."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
    return ConfigError(f"unknown parameter {name!r}{hint}")
