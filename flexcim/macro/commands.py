"""The macro's two command streams and its error kinds: one description for the hardware, the bench and the tiling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern

__all__ = ["LOAD_FIELDS", "MAX_VECTORS", "RUN_FIELDS", "ErrorKind", "Load", "Run"]

LOAD_FIELDS: Mapping[str, int] = MappingProxyType({"bank": 4, "rows": 16, "constants": 1})
"""Fields of a load command's payload and their widths in bits, from bit 0 up."""

RUN_FIELDS: Mapping[str, int] = MappingProxyType(
    {
        "bank": 4,
        "pattern": 8,
        "groups": 4,
        "rows": 16,
        "vectors": 16,
        "first_k": 1,
        "last_k": 1,
        "requantize": 1,
        "release": 1,
    }
)
"""Fields of a run command's payload and their widths in bits, from bit 0 up."""

MAX_VECTORS = (1 << RUN_FIELDS["vectors"]) - 1
"""Most vectors that one run can name."""


class ErrorKind(IntEnum):
    """What the sticky error names (docs/architecture.md, section 3.2); in one cycle, the lower kind wins."""

    NONE = 0
    LOAD_BANK = 1
    LOAD_ROWS = 2
    LOAD_CONSTANTS = 3
    RUN_BANK = 4
    RUN_PATTERN = 5
    RUN_GROUPS = 6
    RUN_ROWS = 7
    RUN_VECTORS = 8
    RUN_ORDER = 9
    RUN_REQUANTIZE = 10
    WEIGHTS_LAST = 11
    ACTIVATIONS_LAST = 12
    CONSTANTS_LAST = 13


def _pack(values: Mapping[str, int], layout: Mapping[str, int]) -> int:
    payload, position = 0, 0
    for name, width in layout.items():
        if not 0 <= values[name] < 1 << width:
            raise ValueError(f"{name} must fit {width} bits, not {values[name]}")
        payload |= values[name] << position
        position += width
    return payload


def _unpack(payload: int, layout: Mapping[str, int]) -> dict[str, int]:
    fields, position = {}, 0
    for name, width in layout.items():
        fields[name] = payload >> position & ((1 << width) - 1)
        position += width
    return fields


@dataclass(frozen=True, kw_only=True)
class Load:
    """Fill a bank with a tile's weights.

    Parameters
    ----------
    bank : int
        The bank to fill.
    rows : int
        Slot rows that the tile uses; the others keep what they held, and runs do not read them.
    constants : bool
        Whether the tile brings requantizer constants.
    """

    bank: int
    rows: int
    constants: bool = False

    def payload(self) -> int:
        """The command as the ``load`` stream's payload.

        Raises
        ------
        ValueError
            If a value does not fit its field.
        """
        return _pack({"bank": self.bank, "rows": self.rows, "constants": int(self.constants)}, LOAD_FIELDS)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Multiply vectors by the tile in a bank.

    Parameters
    ----------
    bank : int
        The bank whose weights are used.
    pattern : Pattern
        The tile's pattern, from the menu.
    groups : int
        G, output groups.
    rows : int
        Slot rows that take part.
    vectors : int
        How many vectors follow on the activation stream.
    first_k, last_k : bool
        Whether this is the first, the last K tile of its outputs; results leave on the last.
    requantize : bool
        Whether the results pass the requantizer.
    release : bool
        Whether the bank is free for the next load after this run.
    """

    bank: int
    pattern: Pattern
    groups: int
    rows: int
    vectors: int
    first_k: bool = True
    last_k: bool = True
    requantize: bool = False
    release: bool = True

    def payload(self, config: MacroConfig) -> int:
        """The command as the ``run`` stream's payload.

        Raises
        ------
        ValueError
            If the pattern is not on the configuration's menu, ``groups`` is no power of two, or a value does not fit
            its field.
        """
        if self.groups < 1 or self.groups.bit_count() != 1:
            raise ValueError(f"groups must be a power of two, not {self.groups}")
        config.legal_groups(self.pattern)  # says so if the pattern is not on the menu
        values = {
            "bank": self.bank,
            "pattern": config.patterns.index(self.pattern),
            "groups": self.groups.bit_length() - 1,
            "rows": self.rows,
            "vectors": self.vectors,
            "first_k": int(self.first_k),
            "last_k": int(self.last_k),
            "requantize": int(self.requantize),
            "release": int(self.release),
        }
        return _pack(values, RUN_FIELDS)

    @classmethod
    def from_payload(cls, config: MacroConfig, payload: int) -> Run:
        """The command that a payload of the ``run`` stream holds; the inverse of `payload`.

        Raises
        ------
        ValueError
            If the payload names a pattern that is not on the configuration's menu.
        """
        fields = _unpack(payload, RUN_FIELDS)
        if fields["pattern"] >= len(config.patterns):
            limit = len(config.patterns)
            raise ValueError(f"pattern must be below {limit}, the menu's length, not {fields['pattern']}")
        return cls(
            bank=fields["bank"],
            pattern=config.patterns[fields["pattern"]],
            groups=1 << fields["groups"],
            rows=fields["rows"],
            vectors=fields["vectors"],
            first_k=bool(fields["first_k"]),
            last_k=bool(fields["last_k"]),
            requantize=bool(fields["requantize"]),
            release=bool(fields["release"]),
        )
