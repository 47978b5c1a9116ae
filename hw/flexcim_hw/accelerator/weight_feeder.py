"""Weights from the shared port to the macros: executes the loads of the accelerator in their order."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from flexcim.accelerator.bus_words import tile_words
from flexcim.accelerator.instructions import INSTRUCTION_FIELDS, AcceleratorError, Opcode
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.macro.commands import LOAD_FIELDS
from flexcim_hw.accelerator.intake import Intake
from flexcim_hw.common.ports import LOAD_LAYOUT, instruction_layout, weight_layout, word_layout
from flexcim_hw.common.shared_modules import index_shape
from flexcim_hw.common.streams import fan_out, readiness

__all__ = ["WeightFeeder"]

ROWS_BITS = INSTRUCTION_FIELDS[Opcode.LOAD]["rows"][1]


class WeightFeeder(wiring.Component):
    """Sends load commands to the macros ahead of their weights, and each beat to the macro whose turn it is.

    A command leaves one cycle after its dispatch at the earliest (`latency`). Beats follow each other in every cycle,
    from one tile to the next: a tile takes as many cycles as it has beats or words, whichever are more (`interval`).

    Parameters
    ----------
    config : AcceleratorConfig
        The instance.

    Members
    -------
    instructions : In(stream of LOAD instructions)
        What was dispatched. Ready depends on registers alone.
    words : In(stream of word_layout(weight_bus))
        The weight bus.
    halt : In(1)
        Move nothing. It stays until a reset, so what was offered may be taken back.
    load, weights : Out(stream) for each macro
        The macros' streams of these names. All get the same payload; it is valid for the macro whose turn it is.
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
                "instructions": In(stream.Signature(instruction_layout(Opcode.LOAD))),
                "words": In(stream.Signature(word_layout(config.weight_bus))),
                "halt": In(1),
                "load": Out(stream.Signature(LOAD_LAYOUT)).array(config.macros),
                "weights": Out(stream.Signature(weight_layout(config.macro))).array(config.macros),
                "idle": Out(1),
                "stalled": Out(1),
                "error": Out(4),
            }
        )

    def interval(self, rows: int) -> int:
        """Cycles from a tile of ``rows`` slot rows to the next in the steady state, when nothing has to wait."""
        return max(self._config.macro.weight_beats(rows), tile_words(self._config, rows))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The tiles' queue is the last to have room: commands leave ahead of their tiles, and images end with them.
        self._dispatched = Signal()
        m.d.comb += self._dispatched.eq(self.instructions.valid & self.instructions.ready)
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
        payload = Signal(LOAD_LAYOUT, name="load_payload")
        valid = Signal(config.macros, name="load_valid")
        m.d.comb += [
            commands.w_en.eq(self._dispatched),
            *(put[name].eq(self.instructions.payload[name]) for name in ("macro", "bank", "rows")),
            payload.bank.eq(command.bank),
            payload.rows.eq(command.rows),
            valid.eq((commands.r_rdy & ~self.halt) << command.macro),
            commands.r_en.eq((valid & readiness(self.load)).any()),
        ]
        fan_out(m, self.load, payload, valid)

    def _build_beats(self, m: Module) -> None:
        """The beats of one tile after the other; a tile's place in the queue is free when its last has moved."""
        config, dispatched = self._config, self.instructions.payload
        layout = data.StructLayout({"macro": index_shape(config.macros), "rows": ROWS_BITS})
        m.submodules.tiles = tiles = SyncFIFO(width=layout.size, depth=config.load_queue)
        m.submodules.intake = intake = Intake(
            config.weight_bus, config.weight_beat_bits, config.load_queue, AcceleratorError.WEIGHTS_LAST
        )
        wiring.connect(m, wiring.flipped(self.words), intake.words)
        put, tile = data.View(layout, tiles.w_data), data.View(layout, tiles.r_data)
        taken, final = Signal(name="beat_taken"), Signal(name="beat_final")
        m.d.comb += [
            self.instructions.ready.eq(tiles.w_rdy),
            tiles.w_en.eq(self._dispatched),
            put.macro.eq(dispatched.macro),
            put.rows.eq(dispatched.rows),
            intake.images.valid.eq(self._dispatched),
            intake.images.payload.eq(dispatched.words),
            intake.halt.eq(self.halt),
            self.error.eq(intake.error),
            intake.beats.ready.eq(~self.halt & tiles.r_rdy & readiness(self.weights).bit_select(tile.macro, 1)),
            intake.final.eq(final),
            taken.eq(intake.beats.valid & intake.beats.ready),
            self.stalled.eq(intake.beats.ready & ~intake.beats.valid),
            tiles.r_en.eq(taken & final),
            self.idle.eq(~tiles.r_rdy),
        ]
        valid = (~self.halt & tiles.r_rdy & intake.beats.valid) << tile.macro
        fan_out(m, self.weights, Cat(intake.beats.payload, final), valid)
        beats = config.macro.weight_beats(1)
        beat = Signal(range(beats))
        row = Signal(ROWS_BITS)
        row_ends = beat == beats - 1
        m.d.comb += final.eq(row_ends & (row + 1 == tile.rows))
        with m.If(taken):
            m.d.sync += beat.eq(Mux(row_ends, 0, beat + 1))
            with m.If(row_ends):
                m.d.sync += row.eq(Mux(final, 0, row + 1))
