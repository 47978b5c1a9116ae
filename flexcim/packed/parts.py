"""The parts of a layer, one or a base and a rest: their slot rows, one behind the other, and the inputs of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flexcim.config.macro import MacroConfig, ceil_div
from flexcim.config.pattern import Pattern
from flexcim.errors import FlexCiMError

__all__ = ["Part", "TilingError", "lay_out", "legal_groups"]


class TilingError(FlexCiMError):
    """A layer that does not fit the macro; the message names the layer's value and the limit."""


@dataclass(frozen=True)
class Part:
    """A part of a layer, which covers all its inputs: the only one, or the base or the rest of a nested layer.

    Parameters
    ----------
    pattern : Pattern
        Its pattern.
    inputs : int
        The layer's inputs.
    window : int
        Inputs of a slot row.
    start : int
        Its first slot row, counted through all K tiles.
    """

    pattern: Pattern
    inputs: int
    window: int
    start: int

    @property
    def stop(self) -> int:
        """The slot row behind its last one."""
        return self.start + ceil_div(self.inputs, self.window)

    def span(self, rows: range) -> range:
        """The inputs that those of its slot rows cover that are among ``rows``; empty if there are none."""
        top, bottom = max(rows.start, self.start), min(rows.stop, self.stop)
        return range((top - self.start) * self.window, min((bottom - self.start) * self.window, self.inputs))

    def slots(self, row: int) -> slice:
        """The places of its slots among all slots of an output, of which ``row`` are in a slot row; a last block that
        the inputs end in has all of its slots."""
        return slice(self.start * row, self.start * row + ceil_div(self.inputs, self.pattern.m) * self.pattern.n)


def lay_out(config: MacroConfig, inputs: int, patterns: Sequence[Pattern], groups: int) -> tuple[Part, ...]:
    """Lay the parts of a layer one behind the other.

    Since a run has one pattern, a rest of another one than the base's begins with a tile; one of the same pattern goes
    on in the row behind the base, so that a layer of few inputs need not have more tiles, and the base's part of that
    tile are its first rows.

    Parameters
    ----------
    config : MacroConfig
        The macro.
    inputs : int
        The layer's inputs.
    patterns : sequence of Pattern
        Those of its parts: of the base, and of the rest if there is one.
    groups : int
        G.
    """
    parts: list[Part] = []
    for pattern in patterns:
        start = parts[-1].stop if parts else 0
        if parts and pattern != parts[-1].pattern:
            start = ceil_div(start, config.rows) * config.rows
        parts.append(Part(pattern, inputs, config.window(pattern, groups), start))
    return tuple(parts)


def legal_groups(config: MacroConfig, patterns: Sequence[Pattern]) -> tuple[int, ...]:
    """Group counts at which all patterns of a layer's parts are legal, ascending; 1 always is.

    Parameters
    ----------
    config : MacroConfig
        The macro.
    patterns : sequence of Pattern
        The patterns of the parts.

    Raises
    ------
    ConfigError
        If a pattern is not on the menu.
    """
    legal = [config.legal_groups(pattern) for pattern in patterns]
    return tuple(groups for groups in config.group_counts if all(groups in one for one in legal))
