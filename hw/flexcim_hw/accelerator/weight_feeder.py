"""Weights from the shared port to the macros: executes the loads of the accelerator in their order."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from flexcim.accelerator.instructions import INSTRUCTION_BITS, INSTRUCTION_FIELDS, AcceleratorError, Opcode
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.macro.commands import LOAD_FIELDS
from flexcim_hw.accelerator.intake import Intake
from flexcim_hw.common.ports import LOAD_LAYOUT, instruction_layout, weight_layout
from flexcim_hw.common.shared_modules import index_shape

__all__ = ["WeightFeeder"]

ROWS_BITS = INSTRUCTION_FIELDS[Opcode.LOAD]["rows"][1]


class WeightFeeder(wiring.Component):
    """Sends load commands to the macros ahead of their weights, and each beat to the macro whose turn it is.

    A command leaves one cycle after its dispatch at the earliest (`latency`); beats follow each other in every cycle,
    from one tile to the next.

    Parameters
    ----------
    config : AcceleratorConfig
        The instance.

    Members
    -------
    load, instruction, room : In(1), In(128), Out(1)
        A dispatched load; whether there is room for one.
    halt : In(1)
        Move nothing.
    bus_data, bus_last, bus_valid, bus_ready : In(weight_bus), In(1), In(1), Out(1)
        The AXI4-Stream.
    load_payload, load_valid, load_ready : Out, Out(M), In(M)
        The macros' ``load`` streams, which share the payload.
    weights_payload, weights_valid, weights_ready : Out, Out(M), In(M)
        The macros' ``weights`` streams, likewise.
    idle : Out(1)
        All weights have moved.
    stalled : Out(1)
        A macro could take a beat, and none is there.
    error : Out(4)
        The kind of an error in this cycle, 0 when there is none.
    """

    latency = 1

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "load": In(1),
                "instruction": In(INSTRUCTION_BITS),
                "room": Out(1),
                "halt": In(1),
                "bus_data": In(config.weight_bus),
                "bus_last": In(1),
                "bus_valid": In(1),
                "bus_ready": Out(1),
                "load_payload": Out(LOAD_LAYOUT.size),
                "load_valid": Out(config.macros),
                "load_ready": In(config.macros),
                "weights_payload": Out(weight_layout(config.macro).size),
                "weights_valid": Out(config.macros),
                "weights_ready": In(config.macros),
                "idle": Out(1),
                "stalled": Out(1),
                "error": Out(4),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._load = data.View(instruction_layout(Opcode.LOAD), self.instruction)
        self._build_commands(m)
        self._build_beats(m)
        return m

    def _build_commands(self, m: Module) -> None:
        """Commands, in their order, as early as the macros take them."""
        config = self._config
        layout = data.StructLayout(
            {"macro": index_shape(config.macros), "bank": LOAD_FIELDS["bank"], "rows": ROWS_BITS}
        )
        m.submodules.commands = commands = SyncFIFO(width=layout.size, depth=config.load_queue)
        put, command = data.View(layout, commands.w_data), data.View(layout, commands.r_data)
        payload = data.View(LOAD_LAYOUT, self.load_payload)
        m.d.comb += [
            commands.w_en.eq(self.load),
            *(put[name].eq(self._load[name]) for name in ("macro", "bank", "rows")),
            payload.bank.eq(command.bank),
            payload.rows.eq(command.rows),
            self.load_valid.eq((commands.r_rdy & ~self.halt) << command.macro),
            commands.r_en.eq((self.load_valid & self.load_ready).any()),
        ]

    def _build_beats(self, m: Module) -> None:
        """The beats of one tile after the other; a tile's place in the queue is free when its last has moved."""
        config = self._config
        layout = data.StructLayout({"macro": index_shape(config.macros), "rows": ROWS_BITS})
        m.submodules.tiles = tiles = SyncFIFO(width=layout.size, depth=config.load_queue)
        m.submodules.intake = intake = Intake(
            config.weight_bus, config.weight_beat_bits, config.load_queue, AcceleratorError.WEIGHTS_LAST
        )
        put, tile = data.View(layout, tiles.w_data), data.View(layout, tiles.r_data)
        ready, final = Signal(name="macro_ready"), Signal(name="beat_final")
        m.d.comb += [
            self.room.eq(tiles.w_rdy),
            tiles.w_en.eq(self.load),
            put.macro.eq(self._load.macro),
            put.rows.eq(self._load.rows),
            intake.image.eq(self.load),
            intake.image_words.eq(self._load.words),
            intake.halt.eq(self.halt),
            *(getattr(intake, port).eq(getattr(self, port)) for port in ("bus_data", "bus_last", "bus_valid")),
            self.bus_ready.eq(intake.bus_ready),
            self.error.eq(intake.error),
            ready.eq(~self.halt & tiles.r_rdy & self.weights_ready.bit_select(tile.macro, 1)),
            intake.take.eq(ready & intake.valid),
            intake.final.eq(final),
            self.weights_valid.eq((~self.halt & tiles.r_rdy & intake.valid) << tile.macro),
            self.weights_payload.eq(Cat(intake.beat, final)),
            self.stalled.eq(ready & ~intake.valid),
            tiles.r_en.eq(intake.take & final),
            self.idle.eq(~tiles.r_rdy),
        ]
        beats = config.macro.weight_beats(1)
        beat = Signal(range(beats))
        row = Signal(ROWS_BITS)
        row_ends = beat == beats - 1
        m.d.comb += final.eq(row_ends & (row + 1 == tile.rows))
        with m.If(intake.take):
            m.d.sync += beat.eq(Mux(row_ends, 0, beat + 1))
            with m.If(row_ends):
                m.d.sync += row.eq(Mux(final, 0, row + 1))
