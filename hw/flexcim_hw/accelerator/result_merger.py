"""The macros' results in one order: by run, by vector, by macro (docs/architecture.md, section 7.1)."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from flexcim.accelerator.instructions import INSTRUCTION_BITS, Opcode
from flexcim.config.accelerator import AcceleratorConfig
from flexcim_hw.accelerator.outlet import Outlet
from flexcim_hw.common.ports import instruction_layout, result_layout
from flexcim_hw.common.shared_modules import index_shape

__all__ = ["ResultMerger"]


class ResultMerger(wiring.Component):
    """Takes each vector's results from one macro after the other, and packs them into words.

    One beat a cycle, without a gap between macros, vectors and runs; a word leaves one cycle after the beat that
    completes it (`latency`).

    Parameters
    ----------
    config : AcceleratorConfig
        The instance.

    Members
    -------
    run, instruction, room : In(1), In(128), Out(1)
        A dispatched run with results; whether there is room for one.
    results_payload, results_valid, results_ready : In(M * bits), In(M), Out(M)
        The macros' ``results`` streams, macro 0 lowest.
    bus_data, bus_keep, bus_last, bus_valid, bus_ready : Out(result_bus), Out, Out(1), Out(1), In(1)
        The AXI4-Stream.
    idle : Out(1)
        All results have left.
    stalled : Out(1)
        A word is there and is not taken.
    """

    latency = Outlet.latency

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "run": In(1),
                "instruction": In(INSTRUCTION_BITS),
                "room": Out(1),
                "results_payload": In(config.macros * result_layout(config.macro).size),
                "results_valid": In(config.macros),
                "results_ready": Out(config.macros),
                "bus_data": Out(config.result_bus),
                "bus_keep": Out(config.result_bus // 8),
                "bus_last": Out(1),
                "bus_valid": Out(1),
                "bus_ready": In(1),
                "idle": Out(1),
                "stalled": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        config = self._config
        m = Module()
        layout = data.StructLayout({"macros": config.macros, "vectors": 16, "end_packet": 1})
        m.submodules.runs = runs = SyncFIFO(width=layout.size, depth=config.run_queue)
        m.submodules.outlet = outlet = Outlet(config.result_beat_bits, config.result_bus)
        put, run = data.View(layout, runs.w_data), data.View(layout, runs.r_data)
        dispatched = data.View(instruction_layout(Opcode.RUN), self.instruction)
        m.d.comb += [
            self.room.eq(runs.w_rdy),
            runs.w_en.eq(self.run),
            *(put[name].eq(dispatched[name]) for name in ("macros", "vectors", "end_packet")),
            self.idle.eq(~runs.r_rdy & ~outlet.bus_valid),
            self.stalled.eq(outlet.bus_valid & ~self.bus_ready),
            outlet.bus_ready.eq(self.bus_ready),
            *(getattr(self, port).eq(getattr(outlet, port)) for port in _BUS_OUTPUTS),
        ]

        macro = Signal(index_shape(config.macros))
        waiting = Signal(config.macros)
        served = Signal(config.macros)  # macros whose results of the vector have been taken
        m.d.comb += waiting.eq(run.macros & ~served)
        for index in reversed(range(config.macros)):
            with m.If(waiting[index]):
                m.d.comb += macro.eq(index)

        size = result_layout(config.macro).size
        beat = data.View(result_layout(config.macro), self.results_payload.word_select(macro, size))
        vector = Signal(16)
        macro_ends = Signal()
        vector_ends = Signal()
        run_ends = Signal()
        m.d.comb += [
            outlet.beat.eq(beat.elements),
            outlet.beat_valid.eq(runs.r_rdy & self.results_valid.bit_select(macro, 1)),
            outlet.beat_end.eq(run.end_packet & run_ends),
            self.results_ready.eq((runs.r_rdy & outlet.beat_ready) << macro),
            macro_ends.eq(outlet.beat_valid & outlet.beat_ready & beat.last),
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


_BUS_OUTPUTS = ("bus_data", "bus_keep", "bus_last", "bus_valid")
