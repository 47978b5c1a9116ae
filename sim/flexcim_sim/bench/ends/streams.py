"""The far ends of a macro's streams: sources that drive its inputs, and a sink that checks and takes its results.

Waking Python costs far more than a simulated cycle, so nothing here waits: one coroutine (``MacroBench``, or one of
your own: docs/how-to/write-your-own-bench.md) wakes once per clock edge and calls ``step`` of each end. At an edge,
signals still read as the flip-flops see them, and what is written appears after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from flexcim.errors import FlexCiMError

__all__ = ["ContractError", "Sink", "Source", "Stall", "bursts", "now_and_then"]

Stall = Callable[[], bool]
"""Asked once per cycle whether a stream's end pauses in it: a source shows no beat, a sink is not ready."""


class ContractError(FlexCiMError):
    """The macro broke the contract at its ports; the message says in which cycle and how."""


def now_and_then(rng: Random, share: float) -> Stall:
    """Pauses in this share of the cycles, each on its own."""
    return lambda: rng.random() < share


def held(cycles: int) -> Stall:
    """Pauses for so many cycles, then never again."""
    left = cycles

    def stall() -> bool:
        nonlocal left
        left -= left > 0
        return left > 0

    return stall


def bursts(rng: Random, length: int) -> Stall:
    """Pauses and goes on for spans of 1 to ``length`` cycles in turn."""
    left, paused = 0, True

    def stall() -> bool:
        nonlocal left, paused
        if left == 0:
            left, paused = rng.randint(1, length), not paused
        left -= 1
        return paused

    return stall


def level(signal: Any, cycle: int) -> bool:
    """A one-bit signal's level; an unknown one breaks the contract."""
    value = str(signal.value)
    if value == "1":
        return True
    if value == "0":
        return False
    raise ContractError(f"cycle {cycle}: {signal._name} is {value}")


def stream_pins(dut: Any, name: str) -> tuple[Any, Any, Any]:
    """Payload, valid and ready of a generated macro's stream (docs/architecture.md, section 3.1)."""
    return getattr(dut, f"{name}__payload"), getattr(dut, f"{name}__valid"), getattr(dut, f"{name}__ready")


class Source:
    """Drives an input stream.

    Parameters
    ----------
    name : str
        What messages call it.
    payload, valid, ready : cocotb handle
        Its pins, wherever in the design they are.

    Attributes
    ----------
    accepted : int
        Beats that the macro took.
    first_cycle, last_cycle : int or None
        When it took the first and the latest.
    """

    def __init__(self, name: str, payload: Any, valid: Any, ready: Any) -> None:
        self.name = name
        self._payload, self._valid, self._ready = payload, valid, ready
        self._payload.value = 0
        self.restart(())

    @classmethod
    def of(cls, dut: Any, name: str) -> Source:
        """That of the stream ``name`` of a generated macro."""
        return cls(name, *stream_pins(dut, name))

    def restart(self, beats: Sequence[int], stall: Stall | None = None) -> None:
        """Offer other beats; one that is being shown is withdrawn, which only a reset makes legal."""
        self._beats = beats
        self._stall = stall
        self._shown = False
        self._valid.value = 0
        self.accepted = 0
        self.first_cycle: int | None = None
        self.last_cycle: int | None = None

    @property
    def exhausted(self) -> bool:
        """Whether all beats have been taken."""
        return self.accepted == len(self._beats)

    @property
    def progress(self) -> str:
        """How far the stream is, in words."""
        return f"{self.name} {self.accepted}/{len(self._beats)}"

    def step(self, cycle: int) -> bool:
        """Do what is due at the clock edge that ends ``cycle``; whether a beat was taken at it."""
        taken = False
        if self._shown:
            if not level(self._ready, cycle):
                return False
            taken = True
            self.accepted += 1
            self.last_cycle = cycle
            if self.first_cycle is None:
                self.first_cycle = cycle
        if self.accepted < len(self._beats) and not (self._stall and self._stall()):
            self._payload.value = self._beats[self.accepted]
            if not self._shown:
                self._valid.value = 1
                self._shown = True
        elif self._shown:
            self._valid.value = 0
            self._shown = False
        return taken


class Sink:
    """Takes the beats of an output stream and checks that what is offered is known, stays, and does not change.

    Parameters
    ----------
    name : str
        What messages call it.
    payload, valid, ready : cocotb handle
        Its pins, wherever in the design they are.

    Attributes
    ----------
    taken : int
        Beats taken.
    last_cycle : int or None
        When the latest was taken.
    """

    def __init__(self, name: str, payload: Any, valid: Any, ready: Any) -> None:
        self.name = name
        self._payload, self._valid, self._ready = payload, valid, ready
        self.restart(lambda payload, cycle: None)

    @classmethod
    def of(cls, dut: Any, name: str) -> Sink:
        """That of the stream ``name`` of a generated macro."""
        return cls(name, *stream_pins(dut, name))

    def restart(self, take: Callable[[int, int], None], stall: Stall | None = None) -> None:
        """Start anew.

        Parameters
        ----------
        take : callable
            Gets the payload and the cycle of each beat.
        stall : Stall, optional
            When to press back.
        """
        self._take = take
        self._stall = stall
        self._is_ready = stall is None
        self._ready.value = int(self._is_ready)
        self._pending: str | None = None
        self.taken = 0
        self.last_cycle: int | None = None

    def step(self, cycle: int) -> bool:
        """Do what is due at the clock edge that ends ``cycle``; whether a beat was taken at it."""
        taken = False
        if level(self._valid, cycle):
            payload = str(self._payload.value)
            if self._pending is not None and payload != self._pending:
                raise ContractError(f"cycle {cycle}: {self.name} changed its payload before it was taken")
            if self._is_ready:
                try:
                    value = int(payload, 2)
                except ValueError:
                    raise ContractError(f"cycle {cycle}: {self.name} offers unknown bits: {payload}") from None
                taken = True
                self.taken += 1
                self.last_cycle = cycle
                self._pending = None
                self._take(value, cycle)
            else:
                self._pending = payload
        elif self._pending is not None:
            raise ContractError(f"cycle {cycle}: {self.name} withdrew a beat before it was taken")
        if self._stall:
            ready = not self._stall()
            if ready != self._is_ready:
                self._ready.value = int(ready)
                self._is_ready = ready
        return taken
