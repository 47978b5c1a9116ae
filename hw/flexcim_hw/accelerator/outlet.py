"""From beats to bus words: the result stream of the accelerator (docs/architecture.md, section 7.1)."""

from __future__ import annotations

from math import gcd

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from flexcim_hw.common.signals import shift_left

__all__ = ["Outlet"]


class Outlet(wiring.Component):
    """Packs beats into words without gaps; a packet's last word may be filled in part.

    A word is there one cycle after the beat that completes it (`latency`); a beat is taken and a word given in every
    cycle, whichever is the wider. After a packet's last beat none is taken until its last word has left. Valid and
    ready depend on registers alone.

    Parameters
    ----------
    beat_bits, word_bits : int
        D and W, multiples of 8.

    Members
    -------
    beat, beat_end, beat_valid, beat_ready : In(D), In(1), In(1), Out(1)
        Beats; ``beat_end`` marks a packet's last.
    bus_data, bus_keep, bus_last, bus_valid, bus_ready : Out(W), Out(W / 8), Out(1), Out(1), In(1)
        The AXI4-Stream.
    """

    latency = 1

    def __init__(self, beat_bits: int, word_bits: int) -> None:
        self._unit = gcd(beat_bits, word_bits)
        self._beat = beat_bits // self._unit
        self._word = word_bits // self._unit
        self._units = self._word + self._beat + min(self._word, self._beat) - 1
        super().__init__(
            {
                "beat": In(beat_bits),
                "beat_end": In(1),
                "beat_valid": In(1),
                "beat_ready": Out(1),
                "bus_data": Out(word_bits),
                "bus_keep": Out(word_bits // 8),
                "bus_last": Out(1),
                "bus_valid": Out(1),
                "bus_ready": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        level = Signal(range(self._units + 1))
        ending = Signal()
        buffer = Signal(self._units * self._unit)
        taken, given = Signal(name="beat_taken"), Signal(name="word_given")
        m.d.comb += [
            self.beat_ready.eq(~ending & (level <= self._units - self._beat)),
            taken.eq(self.beat_valid & self.beat_ready),
            self.bus_valid.eq((level >= self._word) | ending),
            self.bus_last.eq(ending & (level <= self._word)),
            self.bus_data.eq(buffer),
            self.bus_keep.eq(~0),
            given.eq(self.bus_valid & self.bus_ready),
        ]
        units_to_bytes = self._unit // 8
        with m.If(level < self._word):
            m.d.comb += self.bus_keep.eq((1 << (level * units_to_bytes)) - 1)

        rest = Signal(range(self._units + 1))  # units that stay in this cycle
        m.d.comb += rest.eq(level)
        with m.If(given):
            m.d.comb += rest.eq(Mux(self.bus_last, 0, level - self._word))
            with m.If(self.bus_last):
                m.d.sync += ending.eq(0)
        with m.If(taken & self.beat_end):
            m.d.sync += ending.eq(1)
        m.d.sync += level.eq(rest + Mux(taken, self._beat, 0))

        kept = Mux(given, buffer >> (self._word * self._unit), buffer)
        beat = shift_left(m, "beat_bits", Mux(taken, self.beat, 0), rest, self._unit, len(buffer))
        m.d.sync += buffer.eq(kept | beat)
        return m
