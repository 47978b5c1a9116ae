"""Presets as a registry: configurations that have a name, each as the TOML file that would say the same.

Everyone else's preset is a TOML file of theirs, which may build on one of these by ``preset = "name"``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from flexcim.config.errors import ConfigError
from flexcim.config.pattern import DEFAULT_PATTERNS, menu

__all__ = ["REGISTRY", "Preset", "find_preset"]


@dataclass(frozen=True)
class Preset:
    """A configuration that has a name.

    Parameters
    ----------
    name : str
        The name.
    stands_for : str
        One line that says what it stands for.
    macro : mapping of str to value
        The parameters of `MacroConfig` that differ from the defaults.
    accelerator : mapping of str to value, optional
        Those of `AcceleratorConfig`; None for a macro by itself.
    """

    name: str
    stands_for: str
    macro: Mapping[str, Any] = field(default_factory=dict)
    accelerator: Mapping[str, Any] | None = None


_BOARD = {"rows": 8, "columns": 8, "activation_port": 16}

REGISTRY = (
    Preset("flexcim", "the defaults"),
    Preset(
        "wide",
        "`flexcim` with 1:8, 2:5, 2:6, 2:7 on the menu as well, P = 128",
        {"activation_port": 128, "patterns": (*DEFAULT_PATTERNS, *menu("1:8 2:5 2:6 2:7"))},
    ),
    Preset(
        "two-lane",
        "two data lines per cell: L = 2, menu 1:1 1:2 2:4 4:8 2:8",
        {"lanes": 2, "patterns": menu("1:1 1:2 2:4 4:8 2:8")},
    ),
    Preset(
        "dense",
        "dense DCiM: menu 1:1, L = 1, no index",
        {"lanes": 1, "index_bits": 0, "patterns": menu("1:1")},
    ),
    Preset(
        "double-broadcast",
        "SDP-like: menu 1:1 1:2, L = 2, 1 index bit",
        {"lanes": 2, "index_bits": 1, "patterns": menu("1:1 1:2")},
    ),
    Preset(
        "fixed-2-4",
        "menu 1:1 2:4, L = 3, 2 index bits",
        {"lanes": 3, "index_bits": 2, "patterns": menu("1:1 2:4")},
    ),
    Preset("board", "S = 4, R = 8, C = 8, P = 16: fits a small FPGA", _BOARD),
    Preset("accelerator", "one macro `flexcim` behind 512-bit buses", {}, {}),
    Preset("accelerator-2", "two macros `flexcim` behind 512-bit buses", {}, {"macros": 2}),
    # Nothing computes before the first tiles are there, and those of four macros come through one port: a wide one.
    Preset(
        "accelerator-4",
        "four macros `flexcim`, a slot row of weights in each beat, from a 1024-bit bus",
        {"weight_port": 128},
        {"macros": 4, "weight_bus": 1024},
    ),
    Preset(
        "accelerator-board",
        "one macro `board` behind 32-bit buses, with small memories",
        _BOARD,
        {
            "weight_bus": 32,
            "activation_bus": 32,
            "result_bus": 32,
            "activation_memory": 256,
            "program_depth": 128,
        },
    ),
)
"""All presets: first the macros, then the accelerators; a new one is one row."""

_NAMES = tuple(row.name for row in REGISTRY)


def find_preset(name: object, known: Collection[str] = _NAMES) -> Preset:
    """The row of a name.

    Parameters
    ----------
    name : object
        What stands where a preset's name should.
    known : collection of str, optional
        The names that can be meant; by default, all.

    Raises
    ------
    ConfigError
        If it is none of them.
    """
    for row in REGISTRY:
        if row.name == name and name in known:
            return row
    raise ConfigError(f"unknown preset {name!r}; known are {', '.join(known)}")
