"""The load side of the macro: executes load commands, takes weight beats and constants, and writes the cells."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from flexcim.config.macro import MacroConfig
from flexcim.macro.beats import MULT_BITS, SHIFT_BITS
from flexcim.macro.commands import ErrorKind
from flexcim_hw.common.errors import lowest_error
from flexcim_hw.common.ports import LOAD_LAYOUT, constant_layout, weight_layout
from flexcim_hw.common.shared_modules import index_shape
from flexcim_hw.macro.merging import max_groups

__all__ = ["WeightLoader"]


class WeightLoader(wiring.Component):
    """Fills free banks.

    A beat that is taken in one cycle is in the cells two cycles later (`latency`). It takes a beat each cycle
    (`interval`); the next load command is taken with the last beat of the one before, so that loads follow each other
    without a gap.

    Parameters
    ----------
    config : MacroConfig
        The instance.

    Members
    -------
    load, weights, constants : In(stream)
        The streams of docs/architecture.md, section 3.1; ``constants`` only with the requantizer.
    halt : In(1)
        Take nothing more.
    free : In(B)
        Banks that may be written.
    settled : In(B)
        Banks whose constants no result waits for.
    write : Out(S * C / min(q, C))
        An enable for each run of columns that one weight beat fills, sub-macro 0 lowest.
    write_row, write_bank, write_cells : Out
        Where and what.
    write_constants, constants_beat, constants_bank, constants_data : Out
        The same for the requantizer; with the requantizer only.
    done : Out(B)
        With this cycle a bank is loaded.
    rows, has_constants : Out
        With `done`: what the bank was loaded with.
    error : Out(4)
        The kind of an error in this cycle, 0 when there is none.
    """

    latency = 2
    interval = 1

    def __init__(self, config: MacroConfig) -> None:
        self._config = config
        self._runs = config.sub_macros * config.columns // min(config.weight_port, config.columns)
        members = {
            "load": In(stream.Signature(LOAD_LAYOUT)),
            "weights": In(stream.Signature(weight_layout(config))),
            "halt": In(1),
            "free": In(config.banks),
            "settled": In(config.banks),
            "write": Out(self._runs),
            "write_row": Out(index_shape(config.rows)),
            "write_bank": Out(index_shape(config.banks)),
            "write_cells": Out(config.weight_port * config.cell_bits),
            "done": Out(config.banks),
            "rows": Out(range(config.rows + 1)),
            "has_constants": Out(1),
            "error": Out(4),
        }
        if config.requantizer:
            members |= {
                "constants": In(stream.Signature(constant_layout(config))),
                "write_constants": Out(1),
                "constants_beat": Out(index_shape(config.result_beats(max_groups(config)))),
                "constants_bank": Out(index_shape(config.banks)),
                "constants_data": Out(config.result_port * (MULT_BITS + SHIFT_BITS)),
            }
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        config = self._config
        m = Module()
        self._active = Signal()
        self._bank = Signal(index_shape(config.banks))
        self._finished = Signal()
        self._weights_left = Signal()
        self._constants_left = Signal()
        writable = Signal()
        m.d.comb += writable.eq(self._active & ~self.halt & self.free.bit_select(self._bank, 1))

        weights_done, weights_error = self._build_weights(m, writable)
        errors, done = [weights_error], weights_done
        if config.requantizer:
            constants_done, constants_error = self._build_constants(m, writable)
            errors.append(constants_error)
            done &= constants_done
        m.d.comb += self._finished.eq(self._active & done)
        errors.append(
            self._build_command(m)
        )  # after the others: what a new command sets outlasts what the last beat clears
        with m.If(self._finished):
            m.d.comb += self.done.eq(1 << self._bank)
        m.d.comb += self.error.eq(lowest_error(errors))
        return m

    def _build_command(self, m: Module) -> Signal:
        """Take a command when idle, or with the last beat of the one before."""
        config = self._config
        command, error = self.load.payload, Signal(4, name="command_error")
        m.d.comb += self.load.ready.eq(~self.halt & (~self._active | self._finished))
        with m.If(self._finished):
            m.d.sync += self._active.eq(0)
        with m.If(self.load.valid & self.load.ready):
            with m.If(command.bank >= config.banks):
                m.d.comb += error.eq(ErrorKind.LOAD_BANK)
            with m.Elif((command.rows == 0) | (command.rows > config.rows)):
                m.d.comb += error.eq(ErrorKind.LOAD_ROWS)
            with m.Elif(command.constants & (not config.requantizer)):
                m.d.comb += error.eq(ErrorKind.LOAD_CONSTANTS)
            with m.Else():
                m.d.sync += [
                    self._active.eq(1),
                    self._bank.eq(command.bank),
                    self._weights_left.eq(1),
                    self._constants_left.eq(command.constants),
                    self.rows.eq(command.rows),
                    self.has_constants.eq(command.constants),
                ]
        return error

    def _build_weights(self, m: Module, writable: Value) -> tuple[Value, Signal]:
        """Take the tile's weight beats, row by row; returns whether all are there, and an error's kind."""
        config = self._config
        beats = config.weight_beats(1)
        row, beat = Signal(range(config.rows)), Signal(range(beats))
        error = Signal(4, name="weights_error")
        taken, final = Signal(name="weights_taken"), Signal(name="weights_final")
        row_final = beat == beats - 1
        m.d.comb += [
            self.weights.ready.eq(writable & self._weights_left),
            taken.eq(self.weights.valid & self.weights.ready),
            final.eq(row_final & (row == self.rows - 1)),
        ]
        with m.If(taken):
            m.d.sync += beat.eq(Mux(row_final, 0, beat + 1))
            with m.If(row_final):
                m.d.sync += row.eq(Mux(final, 0, row + 1))
            with m.If(self.weights.payload.last != final):
                m.d.comb += error.eq(ErrorKind.WEIGHTS_LAST)
            with m.Elif(final):
                m.d.sync += self._weights_left.eq(0)

        runs_per_beat = self._runs // beats
        m.d.sync += [
            self.write.eq(Cat(taken & (beat == run // runs_per_beat) for run in range(self._runs))),
            self.write_row.eq(row),
            self.write_bank.eq(self._bank),
            self.write_cells.eq(self.weights.payload.cells),
        ]
        return ~self._weights_left | (taken & final & self.weights.payload.last), error

    def _build_constants(self, m: Module, writable: Value) -> tuple[Value, Signal]:
        """Take the tile's constants beside its weights; returns whether all are there, and an error's kind."""
        error = Signal(4, name="constants_error")
        taken, last = Signal(name="constants_taken"), self.constants.payload.last
        m.d.comb += [
            self.constants.ready.eq(writable & self._constants_left & self.settled.bit_select(self._bank, 1)),
            taken.eq(self.constants.valid & self.constants.ready),
            self.write_constants.eq(taken),
            self.constants_bank.eq(self._bank),
            self.constants_data.eq(self.constants.payload.outputs),
        ]
        with m.If(taken):
            m.d.sync += self.constants_beat.eq(Mux(last, 0, self.constants_beat + 1))
            with m.If(last):
                m.d.sync += self._constants_left.eq(0)
            with m.Elif(self.constants_beat == self._config.result_beats(max_groups(self._config)) - 1):
                m.d.comb += error.eq(ErrorKind.CONSTANTS_LAST)
        return ~self._constants_left | (taken & last), error
