"""One payload for several streams, as the macros of an accelerator get it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Cat, Module, Value, ValueLike

__all__ = ["fan_out", "readiness"]


def fan_out(m: Module, streams: Sequence[Any], payload: ValueLike, valid: Value) -> None:
    """Offer a payload on those of the streams whose bit in ``valid`` is set, stream 0 lowest."""
    m.d.comb += [
        *(Value.cast(stream.payload).eq(payload) for stream in streams),
        Cat(stream.valid for stream in streams).eq(valid),
    ]


def readiness(streams: Sequence[Any]) -> Value:
    """Which of the streams are ready, stream 0 lowest."""
    return Cat(stream.ready for stream in streams)
