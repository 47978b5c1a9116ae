"""The frozen configuration of an accelerator: macros, buses and memories around them, and the rules between them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from flexcim.config.errors import ConfigError
from flexcim.config.macro import SUM_BITS, MacroConfig
from flexcim.config.parameters import Configuration, parameter
from flexcim.config.presets import REGISTRY, find_preset
from flexcim.config.toml import naming, read_toml, write_toml

__all__ = [
    "ACCELERATOR_PRESETS",
    "REGISTER_BUSES",
    "AcceleratorConfig",
    "accelerator_preset",
    "names_accelerator",
]

REGISTER_BUSES = ("axi4-lite", "wishbone")
"""What the registers can be reached by."""

_Accelerator = TypeVar("_Accelerator", bound="AcceleratorConfig")


@dataclass(frozen=True, kw_only=True)
class AcceleratorConfig(Configuration):
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

    macro: MacroConfig = parameter(MacroConfig(), "what all of its macros are; their requantizer is off")
    # Instructions name macros by a mask of 16 bits, and addresses of the activation memory in 20.
    macros: int = parameter(1, "how many macros there are; outputs are split over them", symbol="M", low=1, high=16)
    weight_bus: int = parameter(
        512, "bits of the weight stream's words, a power of two", low=32, high=1024, power_of_two=True
    )
    activation_bus: int = parameter(
        512, "bits of the activation stream's words, a power of two", low=32, high=1024, power_of_two=True
    )
    result_bus: int = parameter(
        512, "bits of the result stream's words, a power of two", low=32, high=1024, power_of_two=True
    )
    activation_memory: int = parameter(
        1024, "activation beats, of P elements each, kept for replay; 0 for no memory", low=0, high=1 << 20
    )
    program_depth: int = parameter(512, "instructions that the program memory holds", low=2, high=1 << 16)
    register_bus: str = parameter("axi4-lite", "what the registers are reached by", choices=REGISTER_BUSES)

    def check_relations(self) -> None:
        """Raise ConfigError unless the parameters go together."""
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
    def from_document(cls: type[_Accelerator], document: Mapping[str, Any]) -> _Accelerator:
        """Make a configuration from what a TOML file says.

        Parameters
        ----------
        document : mapping
            An optional ``preset``, the name of a macro or an accelerator, and tables ``macro`` and ``accelerator`` of
            the parameters that differ from it.

        Raises
        ------
        ConfigError
            If there is another key or no such preset, or a rule is broken.
        """
        unknown = sorted(set(document) - {"preset", "macro", "accelerator"})
        if unknown:
            raise ConfigError(
                f"unknown key {unknown[0]!r}; a configuration has 'preset' and tables [macro] and [accelerator]"
            )
        values = document.get("accelerator", {})
        if not isinstance(values, Mapping):
            raise ConfigError(f"accelerator must be a table, not {values!r}")
        if "macro" in values:
            raise ConfigError("the macro's parameters belong into a table [macro] of its own, not [accelerator]")
        macro = document.get("macro", {})
        if not isinstance(macro, Mapping):
            raise ConfigError(f"macro must be a table, not {macro!r}")
        row = find_preset(document.get("preset", "accelerator"), _KNOWN)
        return cls.from_mapping({**(row.accelerator or {}), **values, "macro": {**row.macro, **macro}})

    @classmethod
    def from_toml(cls: type[_Accelerator], path: str | os.PathLike[str]) -> _Accelerator:
        """Read a TOML file: an optional ``preset = "name"`` of a macro or an accelerator, and tables ``[macro]`` and
        ``[accelerator]`` of parameters that differ from it.

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
        values = self.to_mapping()
        return {"macro": values.pop("macro"), "accelerator": values}

    def to_toml(self, path: str | os.PathLike[str]) -> None:
        """Write the configuration as TOML, atomically.

        Raises
        ------
        ConfigError
            If the file cannot be written.
        """
        write_toml(path, self.to_document())


_KNOWN = [row.name for row in sorted(REGISTRY, key=lambda row: row.accelerator is None)]
"""All presets, the accelerators first: what a name can mean where an accelerator is wanted."""

ACCELERATOR_PRESETS: dict[str, AcceleratorConfig] = {
    row.name: AcceleratorConfig.from_document({"preset": row.name}) for row in REGISTRY if row.accelerator is not None
}
"""The registry's accelerators by name."""


def accelerator_preset(name: str) -> AcceleratorConfig:
    """The accelerator of this name, or one macro of that preset with everything else by default.

    Raises
    ------
    ConfigError
        If there is neither.
    """
    return AcceleratorConfig.from_document({"preset": name})


def names_accelerator(path: str | os.PathLike[str]) -> bool:
    """Whether a TOML file is that of an accelerator: it has a table ``[accelerator]`` or an accelerator's preset.

    Raises
    ------
    ConfigError
        If the file cannot be read or is no TOML.
    """
    document = read_toml(path)
    return "accelerator" in document or document.get("preset") in list(ACCELERATOR_PRESETS)  # a list has no hash
