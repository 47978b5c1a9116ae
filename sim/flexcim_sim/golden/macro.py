"""Twin of the macro: what loads and runs do (docs/architecture.md, section 3.2), whenever they do it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.errors import FlexCiMError
from flexcim.macro.commands import LOAD_FIELDS, RUN_FIELDS, ErrorKind
from flexcim_sim.golden.accumulator import SumMemory
from flexcim_sim.golden.activation_buffer import windows
from flexcim_sim.golden.distribution import lanes
from flexcim_sim.golden.merging import taps
from flexcim_sim.golden.requantizer import requantize
from flexcim_sim.golden.sub_macro import column_sums

__all__ = ["GoldenMacro", "command_fields", "load_error", "tile_sums"]

_CHUNK = 512
"""Vectors that are computed at a time, which bounds the memory of long runs."""


def command_fields(payload: int, layout: Mapping[str, int]) -> dict[str, int]:
    """The fields of a command stream's payload, as the hardware reads them.

    Parameters
    ----------
    payload : int
        A payload of the ``load`` or ``run`` stream.
    layout : mapping of str to int
        ``LOAD_FIELDS`` or ``RUN_FIELDS``.
    """
    values = {}
    for name, width in layout.items():
        values[name] = payload & ((1 << width) - 1)
        payload >>= width
    return values


def load_error(config: MacroConfig, command: Mapping[str, int]) -> ErrorKind:
    """Why the fields of a load are illegal, or ``ErrorKind.NONE``."""
    if command["bank"] >= config.banks:
        return ErrorKind.LOAD_BANK
    if not 1 <= command["rows"] <= config.rows:
        return ErrorKind.LOAD_ROWS
    if command["constants"] and not config.requantizer:
        return ErrorKind.LOAD_CONSTANTS
    return ErrorKind.NONE


@dataclass(frozen=True)
class _Tile:
    """What a load puts into a bank: int8 weights and uint8 offsets [rows, S, C], and constants (mult, shift) if any."""

    weights: NDArray[np.int8]
    offsets: NDArray[np.uint8]
    constants: tuple[NDArray[np.uint16], NDArray[np.uint8]] | None


def tile_sums(
    config: MacroConfig,
    pattern: Pattern,
    groups: int,
    rows: int,
    beats: NDArray[np.int8],
    weights: NDArray[np.int8],
    offsets: NDArray[np.uint8],
) -> NDArray[np.int64]:
    """The sums of vectors over one tile, from its packed image: the datapath up to the merging tree.

    As every block is linear in the activations, whole activations pass here; ``distribution.slices`` and
    ``accumulator.shift_add`` are the twins that take them apart and put them together.

    Parameters
    ----------
    config, pattern, groups, rows : MacroConfig, Pattern, int, int
        The macro, the run's mode and its slot rows.
    beats : ndarray of int8, [V, beats, P]
        Activation beats of V vectors.
    weights, offsets : ndarray of int8 and of uint8, [rows loaded, S, C]
        The cells.

    Returns
    -------
    ndarray of int64, [V, G, C]
    """
    parts = []
    for start in range(0, len(beats), _CHUNK):
        held = windows(config, pattern, groups, rows, beats[start : start + _CHUNK])
        sums: NDArray[np.int64] = np.zeros((len(held), config.sub_macros, config.columns), np.int64)
        for phase in range(config.phases(pattern)):
            sums += column_sums(config, phase, lanes(config, pattern, groups, phase, held), weights, offsets)
        parts.append(taps(config, sums)[groups])
    return np.concatenate(parts)


class GoldenMacro:
    """A macro after reset. Loads queue for their banks; a run takes its bank's next tile unless one is there still.

    Commands are given as payloads, so that illegal ones can be, too. The first illegal one sets ``error``; from then on
    the macro takes nothing.

    Parameters
    ----------
    config : MacroConfig
        The macro.

    Attributes
    ----------
    error : ErrorKind
        The sticky error.
    """

    def __init__(self, config: MacroConfig) -> None:
        self.config = config
        self.error = ErrorKind.NONE
        self._queued: list[deque[_Tile]] = [deque() for _ in range(config.banks)]
        self._loaded: list[_Tile | None] = [None] * config.banks
        self._memory = SumMemory(config)
        self._open: tuple[int, int] | None = None  # groups and vectors of the accumulation that is under way

    def load(
        self,
        payload: int,
        weights: NDArray[np.int8],
        offsets: NDArray[np.uint8],
        constants: tuple[NDArray[np.uint16], NDArray[np.uint8]] | None = None,
    ) -> None:
        """Carry out a command of the ``load`` stream.

        Parameters
        ----------
        payload : int
            The command.
        weights, offsets : ndarray of int8 and of uint8, [rows, S, C]
            The tile's packed image, offsets below 2^index_bits.
        constants : pair of ndarray of uint16 and of uint8, [outputs]
            Multipliers and shifts; as many as the outputs of the runs to come, if the command has ``constants``.

        Raises
        ------
        ValueError
            If a legal command's image is not of that shape, or an offset does not fit its bits.
        """
        if self.error:
            return
        command = command_fields(payload, LOAD_FIELDS)
        self.error = load_error(self.config, command)
        if self.error:
            return
        expected = (command["rows"], self.config.sub_macros, self.config.columns)
        if weights.shape != expected or offsets.shape != expected:
            raise ValueError(
                f"a load's weights and offsets must have the shape {expected}, not {weights.shape} and {offsets.shape}"
            )
        if offsets.max() >> self.config.index_bits:
            raise ValueError(f"offset {offsets.max()} does not fit index_bits = {self.config.index_bits}")
        if (constants is not None) != bool(command["constants"]):
            raise ValueError("constants must be given with a load that says so, and with no other")
        self._queued[command["bank"]].append(_Tile(weights, offsets, constants))

    def run(self, payload: int, beats: NDArray[np.int8]) -> NDArray[np.int32] | None:
        """Carry out a command of the ``run`` stream.

        Parameters
        ----------
        payload : int
            The command.
        beats : ndarray of int8, [V, beats, P]
            The activation beats of its vectors.

        Returns
        -------
        ndarray of int32, [V, G * C], or None
            The results, if any leave.

        Raises
        ------
        FlexCiMError
            If the run waits for a load that never came, a sum leaves 32 bits, or constants are fewer than outputs.
        ValueError
            If the beats of a legal run are not of that shape.
        """
        if self.error:
            return None
        command = command_fields(payload, RUN_FIELDS)
        self.error = self._run_error(command)
        if self.error:
            return None
        config, groups = self.config, 1 << command["groups"]
        if len(beats) != command["vectors"]:
            raise ValueError(f"a run of {command['vectors']} vectors got the beats of {len(beats)}")
        tile = self._tile(command["bank"])
        sums = tile_sums(
            config, config.patterns[command["pattern"]], groups, command["rows"], beats, tile.weights, tile.offsets
        )
        total = self._memory.accumulate(sums, first_k=bool(command["first_k"]), last_k=bool(command["last_k"]))
        self._open = None if command["last_k"] else (groups, command["vectors"])
        if command["release"]:
            self._loaded[command["bank"]] = None
        if not command["last_k"]:
            return None
        results = total.reshape(len(beats), groups * config.columns)
        if not command["requantize"]:
            return results
        assert tile.constants is not None, "refused above"
        mult, shift = tile.constants
        if len(mult) < results.shape[1]:
            raise FlexCiMError(f"a run of {results.shape[1]} outputs cannot be requantized with {len(mult)} constants")
        return requantize(config, results, mult[: results.shape[1]], shift[: results.shape[1]])

    def _tile(self, bank: int) -> _Tile:
        """The tile in a bank, taken from the loads that wait if the bank is free."""
        tile = self._loaded[bank]
        if tile is None:
            if not self._queued[bank]:
                raise FlexCiMError(f"a run waits for bank {bank}, but no load for it follows")
            tile = self._loaded[bank] = self._queued[bank].popleft()
        return tile

    def _run_error(self, command: Mapping[str, int]) -> ErrorKind:
        config, groups, vectors = self.config, 1 << command["groups"], command["vectors"]
        if command["bank"] >= config.banks:
            return ErrorKind.RUN_BANK
        if command["pattern"] >= len(config.patterns):
            return ErrorKind.RUN_PATTERN
        if groups not in config.legal_groups(config.patterns[command["pattern"]]):
            return ErrorKind.RUN_GROUPS
        if not 1 <= command["rows"] <= config.rows:
            return ErrorKind.RUN_ROWS
        tile = self._tile(command["bank"])
        if command["rows"] > len(tile.weights):
            return ErrorKind.RUN_ROWS
        single = command["first_k"] and command["last_k"]
        if vectors == 0 or (not single and vectors * groups > config.accumulator_depth):
            return ErrorKind.RUN_VECTORS
        if (self._open is None) != bool(command["first_k"]) or self._open not in (None, (groups, vectors)):
            return ErrorKind.RUN_ORDER
        if command["requantize"] and not (config.requantizer and command["last_k"] and tile.constants is not None):
            return ErrorKind.RUN_REQUANTIZE
        return ErrorKind.NONE
