"""The frozen configuration of one macro: its parameters, the relations between them, and what follows from them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from flexcim.config.errors import ConfigError
from flexcim.config.parameters import Configuration, parameter
from flexcim.config.pattern import DEFAULT_PATTERNS, Pattern
from flexcim.config.presets import REGISTRY, find_preset
from flexcim.config.toml import naming, read_toml, write_toml

__all__ = ["PRESETS", "SUM_BITS", "MacroConfig", "ceil_div", "preset"]

SUM_BITS = 32
"""Width of a sum in the accumulator's memory and of a result element, in bits."""


def ceil_div(dividend: int, divisor: int) -> int:
    """The quotient of two integers, rounded up."""
    return -(-dividend // divisor)


_Macro = TypeVar("_Macro", bound="MacroConfig")


@dataclass(frozen=True, kw_only=True)
class MacroConfig(Configuration):
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

    # The upper bounds are the widths of the command fields (macro/commands.py) and of the packed model's int8 and
    # uint8, and the sum of one tile's products, at most 64 * 1024 of 8 x 8 bits, fits SUM_BITS.
    sub_macros: int = parameter(
        4, "sub-macros in a macro, a power of two", symbol="S", low=1, high=64, power_of_two=True
    )
    rows: int = parameter(32, "slot rows in a sub-macro", symbol="R", low=1, high=1024)
    columns: int = parameter(32, "columns of a sub-macro", symbol="C", low=1, high=1024)
    lanes: int = parameter(
        8,
        "candidate activations that one cell can see in one phase; at most 2^index_bits",
        symbol="L",
        low=1,
        high=256,
    )
    index_bits: int = parameter(3, "stored bits of the offset beside each weight", low=0, high=8)
    weight_bits: int = parameter(8, "bits of a weight, signed two's complement", symbol="W", low=2, high=8)
    activation_bits: int = parameter(8, "bits of an activation, signed two's complement", symbol="A", low=2, high=8)
    bits_per_cycle: int = parameter(
        1,
        "activation bits broadcast in a cycle, a divisor of A: 1 is bit-serial, A is bit-parallel",
        symbol="b",
        low=1,
        high=8,
    )
    banks: int = parameter(
        2, "weights held per cell; one bank computes while another is loaded", symbol="B", low=1, high=8
    )
    activation_port: int = parameter(64, "activations that enter per cycle", symbol="P", low=1, high=4096)
    weight_port: int = parameter(
        None,
        "cells (weight and offset) that enter per cycle: a divisor of C, or a multiple of C that divides S·C",
        symbol="q",
        low=1,
        high=65536,
        follows="columns",
    )
    result_port: int = parameter(16, "results that leave per cycle, at most S·C", low=1, high=65536)
    accumulator_depth: int = parameter(
        64,
        "vectors whose sums are kept, at G = 1, while the K tiles of a layer pass; a multiple of S",
        symbol="D",
        low=1,
        high=65536,
    )
    patterns: tuple[Pattern, ...] = parameter(
        DEFAULT_PATTERNS, "the menu, 1 to 256 patterns, none twice; of each, n divides S and m − n < 2^index_bits"
    )
    requantizer: bool = parameter(False, "build the requantizer (block 6)")

    # -- rules ---------------------------------------------------------------------------------------------------------

    def check_relations(self) -> None:
        """Raise ConfigError unless the parameters go together; the message names both values."""
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
        self._check_menu()

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
        """w, consecutive inputs that one slot row covers: (J / n) * m, with J = S / G; the mode must be legal."""
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
        """Activation beats of a vector of ``rows`` windows, of ``window`` inputs each: ceil(rows / f), or, if a window
        is wider than the port, rows * ceil(window / P)."""
        f = self.windows_per_beat(window)
        return ceil_div(rows, f) if f else rows * ceil_div(window, self.activation_port)

    def weight_beats(self, rows: int) -> int:
        """Weight beats of a tile of ``rows`` slot rows: rows * S * C / q."""
        return rows * self.sub_macros * self.columns // self.weight_port

    def result_beats(self, groups: int) -> int:
        """Result beats of a vector: ceil(G * C / result_port)."""
        return ceil_div(self.tile_outputs(groups), self.result_port)

    def phases(self, pattern: Pattern) -> int:
        """T, phases in which the lanes pass all offsets of a block: ceil((m - n + 1) / L)."""
        return ceil_div(pattern.max_offset + 1, self.lanes)

    def issue_cycles(self, pattern: Pattern) -> int:
        """N, cycles for which a vector occupies the array: T * A / b."""
        return self.phases(pattern) * self.slices

    # -- TOML ----------------------------------------------------------------------------------------------------------

    @classmethod
    def from_document(cls: type[_Macro], document: Mapping[str, Any]) -> _Macro:
        """Make a configuration from what a TOML file says.

        Parameters
        ----------
        document : mapping
            An optional ``preset``, the name of one, and a table ``macro`` of the parameters that differ from it.

        Raises
        ------
        ConfigError
            If there is another key or no such preset, or a rule is broken.
        """
        unknown = sorted(set(document) - {"preset", "macro"})
        if unknown:
            raise ConfigError(f"unknown key {unknown[0]!r}; a configuration has 'preset' and a table [macro]")
        values = document.get("macro", {})
        if not isinstance(values, Mapping):
            raise ConfigError(f"macro must be a table, not {values!r}")
        return cls.from_mapping({**find_preset(document.get("preset", "flexcim"), PRESETS).macro, **values})

    @classmethod
    def from_toml(cls: type[_Macro], path: str | os.PathLike[str]) -> _Macro:
        """Read a TOML file: an optional ``preset = "name"`` and a table ``[macro]`` of parameters that differ from it.

        Raises
        ------
        ConfigError
            If the file cannot be read, is no TOML, or breaks a rule; the message names the file.
        """
        document = read_toml(path)
        with naming(path):
            return cls.from_document(document)

    def to_document(self) -> dict[str, Any]:
        """What a TOML file says of it, with all parameters; ``from_document`` reads it back."""
        return {"macro": self.to_mapping()}

    def to_toml(self, path: str | os.PathLike[str]) -> None:
        """Write the configuration as TOML, atomically.

        Raises
        ------
        ConfigError
            If the file cannot be written.
        """
        write_toml(path, self.to_document())


PRESETS: dict[str, MacroConfig] = {
    row.name: MacroConfig.from_mapping(row.macro) for row in REGISTRY if row.accelerator is None
}
"""The registry's macros by name: comparison instances of the same generator (docs/architecture.md, section 5)."""


def preset(name: str) -> MacroConfig:
    """The macro of this name.

    Raises
    ------
    ConfigError
        If there is none.
    """
    return PRESETS[find_preset(name, PRESETS).name]
