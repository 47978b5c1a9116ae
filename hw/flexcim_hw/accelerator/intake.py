"""From bus words to beats: an input stream of the accelerator, image by image (docs/architecture.md, section 7.1)."""

from __future__ import annotations

from math import gcd

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from flexcim.accelerator.instructions import INSTRUCTION_FIELDS, AcceleratorError, Opcode
from flexcim.config.macro import ceil_div
from flexcim_hw.common.ports import word_layout
from flexcim_hw.common.signals import named, shift_left, shift_right

__all__ = ["Intake"]

WORDS_BITS = INSTRUCTION_FIELDS[Opcode.LOAD]["words"][1]
"""Width of the count of an image's words."""


class Intake(wiring.Component):
    """Takes the words of images that it was told of, and gives their beats.

    A beat is there one cycle after the word that completes it (`latency`). A word is taken and a beat given in every
    cycle, whichever is the wider, and images follow each other without a gap: n beats take max(n, ceil(n * D / W))
    cycles (`interval`). Valid and ready depend on registers and `halt` alone.

    Parameters
    ----------
    word_bits, beat_bits : int
        W, a power of two, and D.
    images : int
        Images that it can have been told of and not begun.
    last_error : AcceleratorError
        What a misplaced ``tlast`` is called.

    Members
    -------
    words : In(stream of word_layout(W))
        The bus. Words are taken only for images that it was told of.
    images : In(stream of 24 bits)
        How many words the next image has.
    halt : In(1)
        Take no word.
    beats : Out(stream of D bits)
        The beats, in their order.
    final : In(1)
        The beat that is taken is its image's last, as its taker knows.
    error : Out(4)
        The kind of an error in this cycle, 0 when there is none.
    """

    latency = 1

    def __init__(self, word_bits: int, beat_bits: int, images: int, last_error: AcceleratorError) -> None:
        self._images = images
        self._last_error = last_error
        # Everything moves in units of g bits.
        self._unit = gcd(word_bits, beat_bits)
        self._word = word_bits // self._unit
        self._beat = beat_bits // self._unit
        self._units = self._word + self._beat + min(self._word, self._beat) - 1
        super().__init__(
            {
                "words": In(stream.Signature(word_layout(word_bits))),
                "images": In(stream.Signature(WORDS_BITS)),
                "halt": In(1),
                "beats": Out(stream.Signature(beat_bits)),
                "final": In(1),
                "error": Out(4),
            }
        )

    def interval(self, beats: int) -> int:
        """Cycles that so many beats of an image take in the steady state, when words come and beats are taken."""
        return max(beats, ceil_div(beats * self._beat, self._word))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        level = Signal(range(self._units + 1))
        taken, image_ends = self._build_words(m, level)
        self._given = Signal(name="beat_given")
        dropped = self._build_dropped(m, level)
        rest = named(m, "rest", level - dropped)  # units that stay in this cycle
        m.d.sync += level.eq(rest + Mux(taken, self._word, 0))
        m.d.comb += [
            self.beats.valid.eq(level >= self._beat),
            self._given.eq(self.beats.ready & self.beats.valid),
        ]
        ends = self._build_buffer(m, dropped, rest[: len(level)], taken, image_ends)
        self._build_error(m, level, ends, taken, image_ends)
        return m

    def _build_words(self, m: Module, level: Signal) -> tuple[Signal, Signal]:
        """Count the words of an image; whether one is taken, and whether it is the image's last."""
        m.submodules.images = images = SyncFIFO(width=WORDS_BITS, depth=self._images)
        wiring.connect(m, wiring.flipped(self.images), images.w_stream)
        left = Signal(WORDS_BITS, name="words_left")
        taken = Signal(name="word_taken")
        ends = Signal(name="image_ends")
        m.d.comb += [
            self.words.ready.eq(~self.halt & (left != 0) & (level <= self._units - self._word)),
            taken.eq(self.words.valid & self.words.ready),
            ends.eq(left == 1),
            images.r_en.eq((left == 0) | (taken & ends)),
        ]
        with m.If(images.r_rdy & images.r_en):
            m.d.sync += left.eq(images.r_data)
        with m.Elif(taken):
            m.d.sync += left.eq(left - 1)
        return taken, ends

    def _build_dropped(self, m: Module, level: Signal) -> Signal:
        """Units that leave in this cycle: a beat, and behind an image's last the padding of its last word."""
        dropped = Signal(range(self._beat + self._word))
        with m.If(self._given):
            m.d.comb += dropped.eq(self._beat)
            if self._word > 1:
                with m.If(self.final):
                    m.d.comb += dropped.eq(self._beat + self._padding(level))
        return dropped

    def _padding(self, level: Signal) -> Value:
        """Units of the word that the next beat ends in behind that end; later words are whole, and W a power of two."""
        return (level - self._beat)[: self._word.bit_length() - 1]

    def _build_buffer(self, m: Module, dropped: Signal, rest: Value, taken: Signal, image_ends: Signal) -> Signal:
        """The units, the oldest lowest, and for each whether an image's words end with it."""
        buffer = Signal(self._units * self._unit)
        ends = Signal(self._units)
        word = shift_left(m, "word", Mux(taken, self.words.payload.data, 0), rest, self._unit, len(buffer))
        kept = shift_right(m, "kept", buffer, dropped, self._unit)
        word_end = Signal.like(ends, name="word_end")
        m.d.comb += [
            word_end.eq(((taken & image_ends) << (self._word - 1)) << rest),
            self.beats.payload.eq(buffer),
        ]
        m.d.sync += [buffer.eq(kept | word), ends.eq((ends >> dropped) | word_end)]
        return ends

    def _build_error(self, m: Module, level: Signal, ends: Signal, taken: Signal, image_ends: Signal) -> None:
        """An image must end within the word that its last beat ends in, and nowhere before."""
        last = self._beat - 1
        too_few = Signal()
        too_many = Signal()
        ended = ends[last]  # whether the word that the beat ends in is its image's last
        if self._word > 1:
            ended = ends[last:].bit_select(self._padding(level), 1)
        m.d.comb += [
            too_few.eq((self._given & ~self.final & ends[last]) | (ends[:last].any() if last else 0)),
            too_many.eq(self._given & self.final & ~ended),
        ]
        with m.If(too_few | too_many):
            m.d.comb += self.error.eq(AcceleratorError.WORDS)
        with m.Elif(taken & self.words.payload.last & ~image_ends):
            m.d.comb += self.error.eq(self._last_error)
