"""What the pins of the streams showed, cycle by cycle: the record of a short simulation, for its waveform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["StreamTrace", "TraceRecorder"]


@dataclass(frozen=True)
class StreamTrace:
    """A stream's pins in each cycle of a simulation, from the first one after the reset.

    Parameters
    ----------
    valid, ready : list of bool
        The handshake.
    payload : list of str
        The payload's bits as the simulator gives them, most significant first; ``x`` where one is unknown.
    """

    valid: list[bool] = field(default_factory=list)
    ready: list[bool] = field(default_factory=list)
    payload: list[str] = field(default_factory=list)

    @property
    def beats(self) -> list[int]:
        """The cycles in which a beat moved."""
        return [cycle for cycle, moved in enumerate(zip(self.valid, self.ready, strict=True)) if all(moved)]

    def to_mapping(self) -> dict[str, Any]:
        """The trace as JSON's plain values."""
        return {"valid": self.valid, "ready": self.ready, "payload": self.payload}


class TraceRecorder:
    """Reads the pins of some streams at each clock edge, before anything is driven for the next cycle.

    Reading so many pins costs far more than a simulated cycle, so it is for simulations of few cycles.

    Parameters
    ----------
    dut : cocotb handle
        The design.
    names : sequence of str
        The streams.
    """

    def __init__(self, dut: Any, names: Sequence[str]) -> None:
        self._pins = {
            name: tuple(getattr(dut, f"{name}__{pin}") for pin in ("valid", "ready", "payload")) for name in names
        }
        self._traces = {name: StreamTrace() for name in names}

    def step(self) -> None:
        """Note what the pins show in the cycle that ends with this edge."""
        for name, (valid, ready, payload) in self._pins.items():
            trace = self._traces[name]
            trace.valid.append(str(valid.value) == "1")
            trace.ready.append(str(ready.value) == "1")
            trace.payload.append(str(payload.value).lower())

    @property
    def traces(self) -> Mapping[str, StreamTrace]:
        """What was noted so far, by the stream's name."""
        return self._traces
