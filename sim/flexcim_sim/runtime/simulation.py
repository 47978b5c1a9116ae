"""Simulated RTL in this process: beats go into its streams and come out of them in arrays, many cycles a call."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexcim.errors import FlexCiMError
from flexcim_sim.build.library import Library

__all__ = ["Moved", "Simulation", "SimulationError"]

_NO_LIMIT = (1 << 64) - 1


class SimulationError(FlexCiMError):
    """RTL that did not do what it was waited for; the message says for what, how long, and what its outputs are."""


@dataclass(frozen=True)
class Moved:
    """What passed a stream's port since the reset.

    Parameters
    ----------
    beats : int
        How many beats.
    first, last : int
        Cycles of the first and the last one; both 0 if there was none.
    """

    beats: int
    first: int
    last: int


class Simulation:
    """A design that runs in this process.

    Each stream has a queue. Beats are arrays of 32-bit words, [beats, words], in which each port of the stream begins a
    word of its own (`flexcim_sim.build.library.StreamPorts`). A reset of one cycle comes first; cycle 0 is the one
    after it.

    Parameters
    ----------
    library : Library
        The built design.
    """

    def __init__(self, library: Library) -> None:
        self._library = library
        self._calls = _load(library)
        self._index = {stream.name: index for index, stream in enumerate(library.streams)}
        self._handle = self._calls.flexcim_open()

    def __enter__(self) -> Simulation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the simulation; nothing else can be asked then."""
        if self._handle is not None:
            self._calls.flexcim_close(self._handle)
            self._handle = None

    @property
    def cycle(self) -> int:
        """Cycles since the reset."""
        return int(self._calls.flexcim_cycle(self._handle))

    def reset(self) -> None:
        """Reset the design for one cycle, forget what waits in the queues, and begin to count at 0."""
        self._calls.flexcim_reset(self._handle)

    def pause(self, chances: Mapping[str, float], seed: int) -> None:
        """Let streams pause: inputs before they offer a beat, outputs before they take one.

        Parameters
        ----------
        chances : mapping of str to float
            Chance of a pause in a cycle, 0 up to but not including 1, by the stream's name.
        seed : int
            Seed of the pauses.
        """
        for name, chance in chances.items():
            if not 0 <= chance < 1:
                raise ValueError(f"the chance of a pause of {name} must be at least 0 and below 1, not {chance}")
            self._calls.flexcim_pause(self._handle, self._index[name], int(chance * 2**32))
        self._calls.flexcim_seed(self._handle, seed)

    def push(self, stream: str, beats: NDArray[np.uint32]) -> None:
        """Put beats, uint32 [beats, words], behind those that wait to enter a stream."""
        ports = self._library.streams[self._index[stream]]
        if not ports.into_design or beats.dtype != np.uint32 or beats.ndim != 2 or beats.shape[1] != ports.beat_words:
            direction = "an input" if ports.into_design else "an output"
            raise ValueError(
                f"{stream} is {direction} of uint32 [beats, {ports.beat_words}], "
                f"not one for {beats.dtype} {list(beats.shape)} to enter"
            )
        words = np.ascontiguousarray(beats)
        self._calls.flexcim_push(self._handle, self._index[stream], words.ctypes.data, len(words))

    def waiting(self, stream: str) -> int:
        """Beats that wait in a queue: to enter the design, or to be pulled."""
        return int(self._calls.flexcim_waiting(self._handle, self._index[stream]))

    def pull(self, stream: str) -> NDArray[np.uint32]:
        """Take all beats that have left a stream, uint32 [beats, words]."""
        ports = self._library.streams[self._index[stream]]
        if ports.into_design:
            raise ValueError(f"{stream} is an input, nothing comes out of it")
        beats = np.empty((self.waiting(stream), ports.beat_words), np.uint32)
        self._calls.flexcim_pull(self._handle, self._index[stream], beats.ctypes.data)
        return beats

    def moved(self, stream: str) -> Moved:
        """What has passed a stream's port."""
        found = (ctypes.c_uint64 * 3)()
        self._calls.flexcim_moved(self._handle, self._index[stream], found)
        return Moved(*found)

    def output(self, name: str) -> int:
        """The value of an output that belongs to no stream, its lowest 64 bits."""
        return int(self._calls.flexcim_watched(self._handle, self._library.watched.index(name)))

    def run(self, cycles: int, stream: str | None = None, beats: int = 0) -> int:
        """Go on for so many cycles, but only until an output that belongs to no stream is not 0 or, if a stream is
        named, so many beats wait to be pulled from it; return the cycles that passed."""
        index, enough = (0, _NO_LIMIT) if stream is None else (self._index[stream], beats)
        return int(self._calls.flexcim_run(self._handle, cycles, index, enough))

    def run_until(self, stream: str, beats: int, limit: int) -> None:
        """Go on until so many beats wait to be pulled from an output stream.

        Raises
        ------
        SimulationError
            If an output that belongs to no stream is not 0 before that, or ``limit`` cycles are not enough.
        """
        passed = self.run(limit, stream, beats)
        found = self.waiting(stream)
        if found < beats:
            outputs = ", ".join(f"{name} = {self.output(name)}" for name in self._library.watched)
            raise SimulationError(f"{found} of {beats} beats of {stream} came within {passed} cycles ({outputs})")


def _load(library: Library) -> Any:
    """The harness's functions with the types of what they take and return."""
    calls = ctypes.CDLL(str(library.path))
    handle, size, word, long, words = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_uint32,
        ctypes.c_uint64,
        ctypes.c_void_p,
    )
    for name, result, arguments in (
        ("open", handle, ()),
        ("close", None, (handle,)),
        ("reset", None, (handle,)),
        ("pause", None, (handle, size, word)),
        ("seed", None, (handle, long)),
        ("push", None, (handle, size, words, size)),
        ("waiting", size, (handle, size)),
        ("pull", None, (handle, size, words)),
        ("moved", None, (handle, size, ctypes.POINTER(long))),
        ("cycle", long, (handle,)),
        ("run", long, (handle, long, size, size)),
        ("watched", long, (handle, size)),
    ):
        function = getattr(calls, f"flexcim_{name}")
        function.restype, function.argtypes = result, arguments
    return calls
