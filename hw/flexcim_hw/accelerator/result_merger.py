"""The macros' results in one order: by run, by vector, by macro (docs/architecture.md, section 7.1)."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from flexcim.accelerator.instructions import Opcode
from flexcim.config.accelerator import AcceleratorConfig
from flexcim_hw.accelerator.outlet import Outlet
from flexcim_hw.common.ports import instruction_layout, packet_word_layout, result_layout
from flexcim_hw.common.shared_modules import index_shape

__all__ = ["ResultMerger"]


class ResultMerger(wiring.Component):
    """Takes each vector's results from one macro after the other, and packs them into words.

    One beat a cycle, without a gap between macros, vectors and runs; a word leaves one cycle after the beat that
    completes it (`latency`). A packet takes as long as the outlet needs for its beats (`interval`).

    Parameters
    ----------
    config : AcceleratorConfig
        The instance.

    Members
    -------
    instructions : In(stream of RUN instructions)
        What was dispatched of the runs with results. Ready depends on registers alone.
    results : In(stream) for each macro
        The macros' streams of this name.
    words : Out(stream of packet_word_layout(result_bus))
        The result bus.
    idle : Out(1)
        All results have left.
    stalled : Out(1)
        A word is there and is not taken.
    """

    latency = Outlet.latency

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        self._outlet = Outlet(config.result_beat_bits, config.result_bus)
        super().__init__(
            {
                "instructions": In(stream.Signature(instruction_layout(Opcode.RUN))),
                "results": In(stream.Signature(result_layout(config.macro))).array(config.macros),
                "words": Out(stream.Signature(packet_word_layout(config.result_bus))),
                "idle": Out(1),
                "stalled": Out(1),
            }
        )

    def interval(self, beats: int) -> int:
        """Cycles from the first beat of a packet of so many to that of the next, when beats come and words are
        taken."""
        return self._outlet.interval(beats)

    def elaborate(self, platform: object) -> Module:
        config, dispatched = self._config, self.instructions.payload
        m = Module()
        layout = data.StructLayout({"macros": config.macros, "vectors": 16, "end_packet": 1})
        m.submodules.runs = runs = SyncFIFO(width=layout.size, depth=config.run_queue)
        m.submodules.outlet = outlet = self._outlet
        wiring.connect(m, outlet.words, wiring.flipped(self.words))
        put, run = data.View(layout, runs.w_data), data.View(layout, runs.r_data)
        m.d.comb += [
            self.instructions.ready.eq(runs.w_rdy),
            runs.w_en.eq(self.instructions.valid),
            *(put[name].eq(dispatched[name]) for name in ("macros", "vectors", "end_packet")),
            self.idle.eq(~runs.r_rdy & ~self.words.valid),
            self.stalled.eq(self.words.valid & ~self.words.ready),
        ]

        macro = Signal(index_shape(config.macros))
        waiting = Signal(config.macros)
        served = Signal(config.macros)  # macros whose results of the vector have been taken
        m.d.comb += waiting.eq(run.macros & ~served)
        for index in reversed(range(config.macros)):
            with m.If(waiting[index]):
                m.d.comb += macro.eq(index)

        beat = Signal(result_layout(config.macro))
        with m.Switch(macro):
            for index, results in enumerate(self.results):
                with m.Case(index):
                    m.d.comb += beat.eq(results.payload)
        vector = Signal(16)
        macro_ends = Signal()
        vector_ends = Signal()
        run_ends = Signal()
        m.d.comb += [
            outlet.beats.payload.elements.eq(beat.elements),
            outlet.beats.payload.end.eq(run.end_packet & run_ends),
            outlet.beats.valid.eq(runs.r_rdy & Cat(results.valid for results in self.results).bit_select(macro, 1)),
            Cat(results.ready for results in self.results).eq((runs.r_rdy & outlet.beats.ready) << macro),
            macro_ends.eq(outlet.beats.valid & outlet.beats.ready & beat.last),
            vector_ends.eq(macro_ends & ((waiting & (waiting - 1)) == 0)),
            run_ends.eq(vector_ends & (vector + 1 == run.vectors)),
            runs.r_en.eq(run_ends),
        ]
        with m.If(macro_ends):
            m.d.sync += served.eq(served | (1 << macro))
        with m.If(vector_ends):
            m.d.sync += [served.eq(0), vector.eq(vector + 1)]
        with m.If(run_ends):
            m.d.sync += vector.eq(0)
        return m
