"""Block 6, the requantizer: from 32-bit sums to A bits, at the edge where results leave."""

from __future__ import annotations

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from flexcim.config.macro import SUM_BITS, MacroConfig
from flexcim.macro.beats import MULT_BITS, SHIFT_BITS
from flexcim_hw.common.shared_modules import index_shape, place
from flexcim_hw.macro.merging import max_groups

__all__ = ["Requantizer", "RequantizerLane"]

PRODUCT_BITS = 64


class RequantizerLane(wiring.Component):
    """y = clamp((x * multiplier + round) >> shift) to A bits, sign-extended; round is half of 2^shift.

    Latency is two cycles (`latency`) of those in which ``advance`` is set for the stage: product, then shift and clamp.
    It takes an element in each of them (`interval`).

    Parameters
    ----------
    config : MacroConfig
        The instance.

    Members
    -------
    element : In(signed 32)
        The sum.
    multiplier, shift : In(unsigned 16), In(unsigned 6)
        The output's constants; a shift is at most 47.
    enable : In(1)
        Whether the element is requantized; otherwise it passes unchanged.
    advance : In(2)
        Which of the two stages takes what stands before it.
    result : Out(signed 32)
        The result.
    """

    latency = 2
    interval = 1

    def __init__(self, config: MacroConfig) -> None:
        self._config = config
        super().__init__(
            {
                "element": In(signed(SUM_BITS)),
                "multiplier": In(unsigned(MULT_BITS)),
                "shift": In(unsigned(SHIFT_BITS)),
                "enable": In(1),
                "advance": In(2),
                "result": Out(signed(SUM_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        product = Signal(signed(PRODUCT_BITS), reset_less=True)
        half = Signal(unsigned(PRODUCT_BITS - 1))
        shift = Signal.like(self.shift, name="product_shift", reset_less=True)
        enable = Signal(name="product_enable", reset_less=True)
        with m.If(self.advance[0]):
            m.d.sync += [
                product.eq(self.element * Mux(self.enable, self.multiplier, 1)),
                shift.eq(self.shift),
                enable.eq(self.enable),
            ]

        largest = (1 << self._config.activation_bits - 1) - 1
        shifted = Signal(signed(PRODUCT_BITS))
        m.d.comb += [
            half.eq((C(1, unsigned(PRODUCT_BITS - 1)) << shift)[1:]),
            shifted.eq((product + half.as_signed()) >> shift),
        ]
        with m.If(self.advance[1]):
            with m.If(~enable):
                m.d.sync += self.result.eq(product)
            with m.Elif(shifted > largest):
                m.d.sync += self.result.eq(largest)
            with m.Elif(shifted < -largest - 1):
                m.d.sync += self.result.eq(-largest - 1)
            with m.Else():
                m.d.sync += self.result.eq(shifted)
        return m


class Requantizer(wiring.Component):
    """The constants of every bank and output, and as many lanes as results leave in a cycle.

    Latency is two cycles (`latency`), and it takes a beat each cycle (`interval`); it stalls with the output.

    Parameters
    ----------
    config : MacroConfig
        The instance.

    Members
    -------
    write, write_bank, write_beat, write_constants : In
        Enable, bank, beat within the vector, and the constants of the beat's outputs.
    elements, last, beat, bank, enable, valid, ready : In, ready Out
        A beat of the result buffer, its number within the vector, and whether and with which bank's constants it is
        requantized.
    out_elements, out_last, out_valid, out_ready : Out, out_ready In
        The beat that leaves.
    """

    latency = RequantizerLane.latency
    interval = RequantizerLane.interval

    def __init__(self, config: MacroConfig) -> None:
        self._config = config
        self._beats = config.result_beats(max_groups(config))
        beat, bank = index_shape(self._beats), index_shape(config.banks)
        super().__init__(
            {
                "write": In(1),
                "write_bank": In(bank),
                "write_beat": In(beat),
                "write_constants": In(config.result_port * (MULT_BITS + SHIFT_BITS)),
                "elements": In(config.result_port * SUM_BITS),
                "last": In(1),
                "beat": In(beat),
                "bank": In(bank),
                "enable": In(1),
                "valid": In(1),
                "ready": Out(1),
                "out_elements": Out(config.result_port * SUM_BITS),
                "out_last": Out(1),
                "out_valid": Out(1),
                "out_ready": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        config = self._config
        m = Module()
        constants = self._build_constants(m)
        advance = self._build_handshake(m)
        results = []
        for index in range(config.result_port):
            entry = constants.word_select(index, MULT_BITS + SHIFT_BITS)
            lane = place(
                m,
                platform,
                f"lane_{index}",
                "requantizer_lane",
                lambda: RequantizerLane(config),
                {
                    "element": self.elements.word_select(index, SUM_BITS).as_signed(),
                    "multiplier": entry[:MULT_BITS],
                    "shift": entry[MULT_BITS:],
                    "enable": self.enable,
                    "advance": advance,
                },
            )
            results.append(lane["result"])
        m.d.comb += self.out_elements.eq(Cat(results))
        return m

    def _build_constants(self, m: Module) -> Value:
        """The constants for the beat that stands before the lanes."""
        config = self._config
        chosen = []
        for bank in range(config.banks):
            memory = Memory(shape=unsigned(len(self.write_constants)), depth=self._beats, init=[])
            m.submodules[f"constants_{bank}"] = memory
            write_port, read_port = memory.write_port(), memory.read_port(domain="comb")
            m.d.comb += [
                write_port.en.eq(self.write & (self.write_bank == bank)),
                write_port.addr.eq(self.write_beat),
                write_port.data.eq(self.write_constants),
                read_port.addr.eq(self.beat),
            ]
            chosen.append(read_port.data)
        return Array(chosen)[self.bank] if len(chosen) > 1 else chosen[0]

    def _build_handshake(self, m: Module) -> Value:
        """Two elastic stages: each takes what stands before it when it is empty or moves on."""
        product_valid, product_last = Signal(), Signal(reset_less=True)
        moves = self.out_ready | ~self.out_valid
        takes = moves | ~product_valid
        m.d.comb += self.ready.eq(takes)
        with m.If(moves):
            m.d.sync += [self.out_valid.eq(product_valid), self.out_last.eq(product_last)]
        with m.If(takes):
            m.d.sync += [product_valid.eq(self.valid), product_last.eq(self.last)]
        return Cat(takes & self.valid, moves & product_valid)
