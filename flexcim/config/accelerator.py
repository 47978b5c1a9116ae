"""The frozen configuration of an accelerator: macros, buses and memories around them, and the rules between them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import tomli_w

from flexcim.config.macro import PRESETS, SUM_BITS, ConfigError, MacroConfig, preset, read_toml, unknown_parameter
from flexcim.files import write_text

__all__ = [
    "ACCELERATOR_PRESETS",
    "REGISTER_BUSES",
    "AcceleratorConfig",
    "accelerator_preset",
    "names_accelerator",
]

REGISTER_BUSES = ("axi4-lite", "wishbone")
"""What the registers can be reached by."""

_RANGES = {"macros": (1, 16), "activation_memory": (0, 1 << 20), "program_depth": (2, 1 << 16)}
"""Least and most of each parameter; the macros' upper bound is the width of the instructions' mask."""


@dataclass(frozen=True, kw_only=True)
class AcceleratorConfig:
    """Parameters of one accelerator (docs/architecture.md, section 7). It is frozen, hashable and checked when made.

    Parameters
    ----------
    macro : MacroConfig
        What all of its macros are.
    macros : int
        How many there are; outputs are split over them.
    weight_bus, activation_bus, result_bus : int
        Data widths of the three AXI4-Streams in bits: powers of two from 32 to 1024.
    activation_memory : int
        Activation beats, of P elements each, that the on-chip memory keeps for replay; 0 for none.
    program_depth : int
        Instructions that the program memory holds.
    register_bus : str
        One of `REGISTER_BUSES`.

    Raises
    ------
    ConfigError
        If a rule between the parameters is broken; the message names the values.
    TypeError
        If a parameter is of the wrong kind.
    """

    macro: MacroConfig = field(default_factory=MacroConfig)
    macros: int = 1
    weight_bus: int = 512
    activation_bus: int = 512
    result_bus: int = 512
    activation_memory: int = 1024
    program_depth: int = 512
    register_bus: str = "axi4-lite"

    def __post_init__(self) -> None:
        if not isinstance(self.macro, MacroConfig):
            raise TypeError(f"macro must be a MacroConfig, not {self.macro!r}")
        if self.register_bus not in REGISTER_BUSES:
            raise ConfigError(f"register_bus must be one of {', '.join(REGISTER_BUSES)}, not {self.register_bus!r}")
        for name in ("weight_bus", "activation_bus", "result_bus", *_RANGES):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an integer, not {value!r}")
        for name in ("weight_bus", "activation_bus", "result_bus"):
            width = getattr(self, name)
            if not 32 <= width <= 1024 or width.bit_count() != 1:
                raise ConfigError(f"{name} must be a power of two from 32 to 1024, not {width}")
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} must be between {low} and {high}, not {getattr(self, name)}")
        if self.macro.requantizer:
            raise ConfigError(
                "macro.requantizer must be false in an accelerator, which has no port for its constants, not true"
            )

    # -- what follows from the parameters ------------------------------------------------------------------------------

    @property
    def weight_beat_bits(self) -> int:
        """Bits of a macro's weight beat: q cells."""
        return self.macro.weight_port * self.macro.cell_bits

    @property
    def activation_beat_bits(self) -> int:
        """Bits of a macro's activation beat: P elements."""
        return self.macro.activation_port * self.macro.activation_bits

    @property
    def result_beat_bits(self) -> int:
        """Bits of a macro's result beat."""
        return self.macro.result_port * SUM_BITS

    @property
    def load_queue(self) -> int:
        """Loads that are dispatched and whose weights have not all come: four for each macro, so that the sequencer
        gets to the runs behind the loads of a whole round of tiles."""
        return 4 * self.macros

    @property
    def run_queue(self) -> int:
        """Runs that are dispatched and have not begun, and runs whose results have not all left."""
        return 8

    # -- TOML ----------------------------------------------------------------------------------------------------------

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], base: AcceleratorConfig | None = None) -> AcceleratorConfig:
        """Make a configuration from plain values, the others taken from ``base`` (by default, the defaults).

        Parameters
        ----------
        values : mapping
            Parameters by name; ``macro`` is a mapping as `MacroConfig.from_mapping` takes it.
        base : AcceleratorConfig, optional
            Where the others come from.

        Raises
        ------
        ConfigError
            If a key is unknown, or a rule is broken.
        """
        base = base or cls()
        known = [field_.name for field_ in fields(cls)]
        for key in values:
            if key not in known:
                raise unknown_parameter(key, known)
        given = dict(values)
        if "macro" in given:
            if not isinstance(given["macro"], Mapping):
                raise ConfigError(f"macro must be a table, not {given['macro']!r}")
            given["macro"] = MacroConfig.from_mapping(given["macro"], base=base.macro)
        try:
            return replace(base, **given)
        except TypeError as error:
            raise ConfigError(str(error)) from None

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> AcceleratorConfig:
        """Read a TOML file: an optional ``preset = "name"`` of a macro or an accelerator, and tables ``[macro]`` and
        ``[accelerator]`` of parameters that differ from it.

        Raises
        ------
        ConfigError
            If the file cannot be read, is no TOML, or breaks a rule; the message names the file.
        """
        document = read_toml(path)
        try:
            unknown = sorted(set(document) - {"preset", "macro", "accelerator"})
            if unknown:
                raise ConfigError(
                    f"unknown key {unknown[0]!r}; a configuration has 'preset' and tables [macro] and [accelerator]"
                )
            values = document.get("accelerator", {})
            if not isinstance(values, dict):
                raise ConfigError(f"accelerator must be a table, not {values!r}")
            if "macro" in values:
                raise ConfigError("the macro's parameters belong into a table [macro] of its own, not [accelerator]")
            if "macro" in document:
                values = values | {"macro": document["macro"]}
            return cls.from_mapping(values, base=accelerator_preset(document.get("preset", "accelerator")))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def to_mapping(self) -> dict[str, Any]:
        """All parameters as plain values; ``from_mapping`` reads them back."""
        values = {field_.name: getattr(self, field_.name) for field_ in fields(self)}
        values["macro"] = self.macro.to_mapping()
        return values

    def to_toml(self, path: str | os.PathLike[str]) -> None:
        """Write the configuration as TOML, atomically.

        Raises
        ------
        ConfigError
            If the file cannot be written.
        """
        values = self.to_mapping()
        document = {"macro": values.pop("macro"), "accelerator": values}
        try:
            write_text(path, tomli_w.dumps(document))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error.strerror})") from None


ACCELERATOR_PRESETS: dict[str, AcceleratorConfig] = {
    "accelerator": AcceleratorConfig(),
    "accelerator-2": AcceleratorConfig(macros=2),
    # Nothing computes before the first tiles are there, and those of four macros come through one port: a wide one.
    "accelerator-4": AcceleratorConfig(macro=MacroConfig(weight_port=128), macros=4, weight_bus=1024),
    "accelerator-board": AcceleratorConfig(
        macro=PRESETS["board"],
        weight_bus=32,
        activation_bus=32,
        result_bus=32,
        activation_memory=256,
        program_depth=128,
    ),
}
"""Accelerators that have a name."""


def accelerator_preset(name: str) -> AcceleratorConfig:
    """The accelerator of this name, or one macro of that preset with everything else by default.

    Raises
    ------
    ConfigError
        If there is neither.
    """
    if isinstance(name, str) and name in ACCELERATOR_PRESETS:
        return ACCELERATOR_PRESETS[name]
    if isinstance(name, str) and name in PRESETS:
        return AcceleratorConfig(macro=preset(name))
    raise ConfigError(f"unknown preset {name!r}; known are {', '.join((*ACCELERATOR_PRESETS, *PRESETS))}")


def names_accelerator(path: str | os.PathLike[str]) -> bool:
    """Whether a TOML file is that of an accelerator: it has a table ``[accelerator]`` or an accelerator's preset.

    Raises
    ------
    ConfigError
        If the file cannot be read or is no TOML.
    """
    document = read_toml(path)
    return "accelerator" in document or document.get("preset") in ACCELERATOR_PRESETS
