"""From beats to bus words: the result stream of the accelerator (docs/architecture.md, section 7.1)."""

from __future__ import annotations

from math import gcd

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from flexcim.config.macro import ceil_div
from flexcim_hw.common.ports import packet_beat_layout, packet_word_layout
from flexcim_hw.common.signals import shift_left

__all__ = ["Outlet"]


class Outlet(wiring.Component):
    """Packs beats into words without gaps; a packet's last word may be filled in part.

    A word is there one cycle after the beat that completes it (`latency`). A beat is taken and a word given in every
    cycle, whichever is the wider; after a packet's last beat none is taken until its last word has left. So a packet of
    n beats, which fill F = floor(n * D / W) words and perhaps a part of one more, takes max(n, F) + 1 cycles, or with
    such a part max(n, F + 1, ceil(F * W / D) + 1) + 1 (`interval`). Valid and ready depend on registers alone.

    Parameters
    ----------
    beat_bits, word_bits : int
        D and W, multiples of 8.

    Members
    -------
    beats : In(stream of packet_beat_layout(D))
        Beats.
    words : Out(stream of packet_word_layout(W))
        The bus.
    """

    latency = 1

    def __init__(self, beat_bits: int, word_bits: int) -> None:
        self._unit = gcd(beat_bits, word_bits)
        self._beat = beat_bits // self._unit
        self._word = word_bits // self._unit
        self._units = self._word + self._beat + min(self._word, self._beat) - 1
        super().__init__(
            {
                "beats": In(stream.Signature(packet_beat_layout(beat_bits))),
                "words": Out(stream.Signature(packet_word_layout(word_bits))),
            }
        )

    def interval(self, beats: int) -> int:
        """Cycles from the first beat of a packet of so many to that of the next, when beats come and words are
        taken."""
        full, part = divmod(beats * self._beat, self._word)
        if part:
            full = max(full, ceil_div(full * self._word, self._beat)) + 1
        return max(beats, full) + self.latency

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beats, words = self.beats, self.words
        level = Signal(range(self._units + 1))
        ending = Signal()
        buffer = Signal(self._units * self._unit)
        # A signal of its own: Verilog would drive a payload of which a process drives a part from two sides.
        keep = Signal.like(words.payload.keep)
        taken, given = Signal(name="beat_taken"), Signal(name="word_given")
        m.d.comb += [
            beats.ready.eq(~ending & (level <= self._units - self._beat)),
            taken.eq(beats.valid & beats.ready),
            words.valid.eq((level >= self._word) | ending),
            words.payload.last.eq(ending & (level <= self._word)),
            words.payload.data.eq(buffer),
            words.payload.keep.eq(keep),
            given.eq(words.valid & words.ready),
        ]
        units_to_bytes = self._unit // 8
        m.d.comb += keep.eq(~0)
        with m.If(level < self._word):
            m.d.comb += keep.eq((1 << (level * units_to_bytes)) - 1)

        rest = Signal(range(self._units + 1))  # units that stay in this cycle
        m.d.comb += rest.eq(level)
        with m.If(given):
            m.d.comb += rest.eq(Mux(words.payload.last, 0, level - self._word))
            with m.If(words.payload.last):
                m.d.sync += ending.eq(0)
        with m.If(taken & beats.payload.end):
            m.d.sync += ending.eq(1)
        m.d.sync += level.eq(rest + Mux(taken, self._beat, 0))

        kept = Mux(given, buffer >> (self._word * self._unit), buffer)
        beat = shift_left(m, "beat_bits", Mux(taken, beats.payload.elements, 0), rest, self._unit, len(buffer))
        m.d.sync += buffer.eq(kept | beat)
        return m
