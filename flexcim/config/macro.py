"""The frozen configuration of one macro: its parameters, the rules between them, and what follows from them."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import tomli_w

from flexcim.config.pattern import Pattern
from flexcim.errors import FlexCiMError
from flexcim.files import write_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "DEFAULT_PATTERNS",
    "PRESETS",
    "SUM_BITS",
    "ConfigError",
    "MacroConfig",
    "ceil_div",
    "preset",
    "read_toml",
    "unknown_parameter",
]

SUM_BITS = 32
"""Width of a sum in the accumulator's memory and of a result element, in bits."""


class ConfigError(FlexCiMError):
    """A configuration that breaks a rule; the message is one sentence that names the parameters and their values."""


def _patterns(text: str) -> tuple[Pattern, ...]:
    return tuple(map(Pattern.parse, text.split()))


DEFAULT_PATTERNS = _patterns("1:1 4:5 4:6 4:7 4:8 4:9 4:10 4:11 2:4 2:8 1:2 1:4")
"""The default menu: one crossbar serves all of it with eight lanes and one phase."""


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The document of a TOML file.

    Raises
    ------
    ConfigError
        If the file cannot be read or is no TOML; the message names it.
    """
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except RecursionError:
        raise ConfigError(f"{path}: is no TOML that can be read, its brackets are nested too deeply") from None
    except ValueError as error:  # no TOML, no UTF-8, or an integer of thousands of digits
        raise ConfigError(f"{path}: is no TOML ({error})") from None


def unknown_parameter(key: str, known: Sequence[str]) -> ConfigError:
    """The error that names a parameter which there is not, and the one that was probably meant."""
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
    return ConfigError(f"unknown parameter {key!r}{hint}")


def ceil_div(dividend: int, divisor: int) -> int:
    """The quotient of two integers, rounded up."""
    return -(-dividend // divisor)


@dataclass(frozen=True, kw_only=True)
class MacroConfig:
    """Parameters of one macro (docs/architecture.md, section 1). The object is frozen, hashable and checked when made.

    Parameters
    ----------
    sub_macros : int
        S, sub-macros in the macro; a power of two.
    rows, columns : int
        R slot rows and C columns of a sub-macro.
    lanes : int
        L, candidate activations that one cell can see in one phase.
    index_bits : int
        Stored bits of the offset beside each weight; 0 for dense instances.
    weight_bits, activation_bits : int
        W and A, signed two's complement.
    bits_per_cycle : int
        b, activation bits broadcast in a cycle; a divisor of A. 1 is bit-serial, A bit-parallel.
    banks : int
        B, weights held per cell.
    activation_port : int
        P, activations that enter per cycle.
    weight_port : int or None
        q, cells that enter per cycle: a divisor of C, or a multiple of C that divides S * C. ``None`` means C.
    result_port : int
        Results that leave per cycle.
    accumulator_depth : int
        D, vectors whose sums are kept at G = 1 while the K tiles of a layer pass; a multiple of S.
    patterns : iterable of Pattern or str
        The menu. A run command names a pattern by its place on the menu.
    requantizer : bool
        Whether the requantizer is built.

    Raises
    ------
    ConfigError
        If a rule between the parameters is broken; the message names both values.
    TypeError
        If a parameter is of the wrong kind.
    """

    sub_macros: int = 4
    rows: int = 32
    columns: int = 32
    lanes: int = 8
    index_bits: int = 3
    weight_bits: int = 8
    activation_bits: int = 8
    bits_per_cycle: int = 1
    banks: int = 2
    activation_port: int = 64
    weight_port: int = None  # type: ignore[assignment]  # replaced by `columns` before anyone reads it
    result_port: int = 16
    accumulator_depth: int = 64
    patterns: tuple[Pattern, ...] = DEFAULT_PATTERNS
    requantizer: bool = False

    def __post_init__(self) -> None:
        if self.weight_port is None:
            object.__setattr__(self, "weight_port", self.columns)
        self._check_kinds()
        self._check_ranges()
        self._check_relations()
        self._check_menu()

    # -- rules ---------------------------------------------------------------------------------------------------------

    def _check_kinds(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "requantizer":
                if not isinstance(value, bool):
                    raise TypeError(f"requantizer must be true or false, not {value!r}")
            elif field.name == "patterns":
                if isinstance(value, str) or not isinstance(value, Iterable):
                    raise TypeError(f"patterns must be a list such as ['1:1', '4:8'], not {value!r}")
                try:
                    menu = tuple(item if isinstance(item, Pattern) else Pattern.parse(item) for item in value)
                except ValueError as error:
                    raise ConfigError(f"patterns: {error}") from None
                object.__setattr__(self, "patterns", menu)
            elif not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{field.name} must be an integer, not {value!r}")

    def _check_ranges(self) -> None:
        # The upper bounds are the widths of the command fields (commands.py) and of the packed model's int8 and uint8,
        # and the sum of one tile's products, at most 64 * 1024 of 8 x 8 bits, fits SUM_BITS.
        ranges = {
            "sub_macros": (1, 64),
            "rows": (1, 1024),
            "columns": (1, 1024),
            "lanes": (1, 256),
            "index_bits": (0, 8),
            "weight_bits": (2, 8),
            "activation_bits": (2, 8),
            "bits_per_cycle": (1, 8),
            "banks": (1, 8),
            "activation_port": (1, 4096),
            "weight_port": (1, 65536),
            "result_port": (1, 65536),
            "accumulator_depth": (1, 65536),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} must be between {low} and {high}, not {getattr(self, name)}")

    def _check_relations(self) -> None:
        if not _is_power_of_two(self.sub_macros):
            raise ConfigError(f"sub_macros must be a power of two, not {self.sub_macros}")
        if self.activation_bits % self.bits_per_cycle:
            raise ConfigError(
                f"bits_per_cycle must divide activation_bits, but {self.bits_per_cycle} does not divide "
                f"{self.activation_bits}"
            )
        if self.lanes > 1 << self.index_bits:
            raise ConfigError(
                f"lanes must be at most 2^index_bits = {1 << self.index_bits}, the offsets that a cell can name, "
                f"not {self.lanes}"
            )
        cells = self.sub_macros * self.columns
        if self.columns % self.weight_port and (self.weight_port % self.columns or cells % self.weight_port):
            raise ConfigError(
                f"weight_port must divide columns = {self.columns}, or be a multiple of it that divides "
                f"sub_macros * columns = {cells}, not {self.weight_port}"
            )
        if self.result_port > cells:
            raise ConfigError(
                f"result_port must be at most sub_macros * columns = {cells}, the results of a vector, "
                f"not {self.result_port}"
            )
        if self.accumulator_depth % self.sub_macros:
            raise ConfigError(
                f"accumulator_depth must be a multiple of sub_macros = {self.sub_macros}, not {self.accumulator_depth}"
            )

    def _check_menu(self) -> None:
        if not self.patterns:
            raise ConfigError("patterns must name at least one pattern, not an empty menu")
        if len(self.patterns) > 256:
            raise ConfigError(f"patterns must name at most 256 patterns, not {len(self.patterns)}")
        seen: set[Pattern] = set()
        for pattern in self.patterns:
            if pattern in seen:
                raise ConfigError(f"patterns must not name {pattern} twice (n:n is read as 1:1)")
            seen.add(pattern)
            if pattern.max_offset >= 1 << self.index_bits:
                raise ConfigError(
                    f"pattern {pattern} needs offsets up to {pattern.max_offset}, but index_bits = {self.index_bits} "
                    f"reach only {(1 << self.index_bits) - 1}"
                )
            if self.sub_macros % pattern.n:
                raise ConfigError(
                    f"pattern {pattern} keeps n = {pattern.n}, which must divide sub_macros = {self.sub_macros}"
                )

    # -- what follows from the parameters ------------------------------------------------------------------------------

    @property
    def cell_bits(self) -> int:
        """Bits of one cell on the weight port: weight (low) and offset."""
        return self.weight_bits + self.index_bits

    @property
    def slices(self) -> int:
        """Slices of an activation, A / b."""
        return self.activation_bits // self.bits_per_cycle

    @property
    def sum_bits(self) -> int:
        """Bits that hold the signed sum of one tile's products: S * R products of W x A bits."""
        largest = self.sub_macros * self.rows << (self.weight_bits - 1 + self.activation_bits - 1)
        return largest.bit_length() + 1

    @cached_property
    def group_counts(self) -> tuple[int, ...]:
        """All output group counts that the merging tree can form: 1, 2, ... S."""
        return tuple(1 << level for level in range(self.sub_macros.bit_length()))

    @cached_property
    def modes(self) -> tuple[tuple[Pattern, int], ...]:
        """Every legal (pattern, groups) of the menu, in menu order and then by groups."""
        return tuple((pattern, groups) for pattern in self.patterns for groups in self.legal_groups(pattern))

    def legal_groups(self, pattern: Pattern) -> tuple[int, ...]:
        """Group counts at which a pattern of the menu is legal: n divides J = S / G.

        Raises
        ------
        ConfigError
            If the pattern is not on the menu.
        """
        if pattern not in self.patterns:
            raise ConfigError(f"pattern {pattern} is not on the menu {' '.join(map(str, self.patterns))}")
        return tuple(groups for groups in self.group_counts if (self.sub_macros // groups) % pattern.n == 0)

    def check_mode(self, pattern: Pattern, groups: int) -> None:
        """Raise ConfigError unless the pattern is on the menu and legal at this number of groups."""
        if groups not in self.legal_groups(pattern):
            raise ConfigError(
                f"pattern {pattern} is legal at groups {', '.join(map(str, self.legal_groups(pattern)))} "
                f"of this instance (n must divide sub_macros / groups), not {groups}"
            )

    def window(self, pattern: Pattern, groups: int) -> int:
        """w, consecutive inputs that one slot row covers: (J / n) * m."""
        return self.sub_macros // groups // pattern.n * pattern.m

    @cached_property
    def max_window(self) -> int:
        """The widest window of all modes."""
        return max(self.window(pattern, groups) for pattern, groups in self.modes)

    def tile_inputs(self, pattern: Pattern, groups: int) -> int:
        """K, inputs of a tile: R * w."""
        return self.rows * self.window(pattern, groups)

    def tile_outputs(self, groups: int) -> int:
        """Outputs of a tile: G * C."""
        return groups * self.columns

    def windows_per_beat(self, window: int) -> int:
        """f, the largest divisor of R for which f windows fit an activation beat; 0 if not even one fits."""
        return max(
            (f for f in range(1, self.rows + 1) if self.rows % f == 0 and f * window <= self.activation_port), default=0
        )

    def vector_beats(self, window: int, rows: int) -> int:
        """Activation beats of a vector of ``rows`` windows."""
        f = self.windows_per_beat(window)
        return ceil_div(rows, f) if f else rows * ceil_div(window, self.activation_port)

    def weight_beats(self, rows: int) -> int:
        """Weight beats of a tile of ``rows`` slot rows."""
        return rows * self.sub_macros * self.columns // self.weight_port

    def result_beats(self, groups: int) -> int:
        """Result beats of a vector."""
        return ceil_div(self.tile_outputs(groups), self.result_port)

    def phases(self, pattern: Pattern) -> int:
        """T, phases in which the lanes pass all offsets of a block: ceil((m - n + 1) / L)."""
        return ceil_div(pattern.max_offset + 1, self.lanes)

    def issue_cycles(self, pattern: Pattern) -> int:
        """N, cycles for which a vector occupies the array: T * A / b."""
        return self.phases(pattern) * self.slices

    # -- TOML ----------------------------------------------------------------------------------------------------------

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], base: MacroConfig | None = None) -> MacroConfig:
        """Make a configuration from plain values, the others taken from ``base`` (by default, the defaults).

        Raises
        ------
        ConfigError
            If a key is unknown, or a rule is broken.
        """
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise unknown_parameter(key, known)
        given = dict(values)
        base = base or cls()
        # Without this, a base's weight_port (which followed its columns) would outlive a change of columns.
        if "columns" in given and base.weight_port == base.columns:
            given.setdefault("weight_port", None)
        try:
            return replace(base, **given)
        except TypeError as error:
            raise ConfigError(str(error)) from None

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> MacroConfig:
        """Read a TOML file: an optional ``preset = "name"`` and a table ``[macro]`` of parameters that differ from it.

        Raises
        ------
        ConfigError
            If the file cannot be read, is no TOML, or breaks a rule; the message names the file.
        """
        document = read_toml(path)
        try:
            unknown = sorted(set(document) - {"preset", "macro"})
            if unknown:
                raise ConfigError(f"unknown key {unknown[0]!r}; a configuration has 'preset' and a table [macro]")
            values = document.get("macro", {})
            if not isinstance(values, dict):
                raise ConfigError(f"macro must be a table, not {values!r}")
            return cls.from_mapping(values, base=preset(document.get("preset", "flexcim")))
        except ValueError as error:  # a rule, or an integer too long to be named in its sentence
            raise ConfigError(f"{path}: {error}") from None

    def to_mapping(self) -> dict[str, Any]:
        """All parameters as plain values, patterns as strings; ``from_mapping`` reads them back."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["patterns"] = list(map(str, self.patterns))
        return values

    def to_toml(self, path: str | os.PathLike[str]) -> None:
        """Write the configuration as TOML, atomically.

        Raises
        ------
        ConfigError
            If the file cannot be written.
        """
        try:
            write_text(path, tomli_w.dumps({"macro": self.to_mapping()}))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error.strerror})") from None


PRESETS: dict[str, MacroConfig] = {
    "flexcim": MacroConfig(),
    "wide": MacroConfig(activation_port=128, patterns=DEFAULT_PATTERNS + _patterns("1:8 2:5 2:6 2:7")),
    "two-lane": MacroConfig(lanes=2, patterns=_patterns("1:1 1:2 2:4 4:8 2:8")),
    "dense": MacroConfig(lanes=1, index_bits=0, patterns=_patterns("1:1")),
    "double-broadcast": MacroConfig(lanes=2, index_bits=1, patterns=_patterns("1:1 1:2")),
    "fixed-2-4": MacroConfig(lanes=3, index_bits=2, patterns=_patterns("1:1 2:4")),
    "board": MacroConfig(rows=8, columns=8, activation_port=16),
}
"""Comparison instances of the same generator (docs/architecture.md, section 5)."""


def preset(name: str) -> MacroConfig:
    """The preset of this name.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; known are {', '.join(PRESETS)}")
    return PRESETS[name]
