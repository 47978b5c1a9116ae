"""The run side of the macro: executes run commands, fills the activation buffer, starts vectors, and counts slices
and phases.

A vector passes three descriptors: *fill* while its beats are taken, *full* while it waits for the array, its bank and
room for its results, *compute* while its slices are issued. Nothing behind the compute descriptor ever stalls.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.macro.commands import RUN_FIELDS, ErrorKind
from flexcim.macro.cycles import result_entries, vector_cycles
from flexcim_hw.common.errors import lowest_error
from flexcim_hw.common.ports import RUN_LAYOUT, activation_layout
from flexcim_hw.common.shared_modules import index_shape
from flexcim_hw.macro.activation_buffer import FillGeometry
from flexcim_hw.macro.sub_macro import max_phases

__all__ = ["Sequencer", "vector_layout"]


def vector_layout(config: MacroConfig) -> data.StructLayout:
    """What the pipeline has to know of a vector."""
    return data.StructLayout(
        {
            "mode": index_shape(len(config.modes)),
            "groups": index_shape(len(config.group_counts)),
            "rows": range(config.rows + 1),
            "bank": index_shape(config.banks),
            "slot": index_shape(config.accumulator_depth),
            "first_k": 1,
            "last_k": 1,
            "requantize": 1,
            "release": 1,
        }
    )


class Sequencer(wiring.Component):
    """Runs vectors.

    A vector starts in the cycle after its last beat at the earliest, and then every max(T * A / b, beats) cycles
    (`interval`), while banks and result entries allow (docs/architecture.md, section 3.3). Its first slice is issued in
    the cycle after the start (`latency`).

    Parameters
    ----------
    config : MacroConfig
        The instance.

    Members
    -------
    run, activations : In(stream)
        The streams of docs/architecture.md, section 3.1; the beats' elements go to the activation buffer directly.
    halt : In(1)
        Take nothing more; full vectors still start.
    bank_done, bank_rows, bank_has_constants : In
        Banks that become loaded with this cycle, and with what.
    entry_freed : In(1)
        A result entry leaves.
    free, settled : Out(B)
        Banks that may be loaded; banks whose constants no result waits for.
    requantized_left : In(B)
        With `entry_freed`: the bank whose constants it was waiting for.
    fill_write, fill_window_code, fill_first_row, fill_window_beat : Out
        Where the activation buffer puts this cycle's beat.
    start, active_rows : Out(1), Out(R)
        The full vector goes to the compute half of the buffer.
    shift : Out(1)
        With this cycle a slice ends.
    issue : Out(1)
        A slice is issued.
    vector : Out(vector_layout)
        The vector whose slices are issued.
    phase, first_phase, first_slice, done : Out
        Phase number, whether it is a slice's first, whether the slice is a vector's first, and whether this is a
        vector's last issue cycle.
    error : Out(4)
        The kind of an error in this cycle, 0 when there is none.
    """

    latency = 1

    def __init__(self, config: MacroConfig) -> None:
        self._config = config
        self._geometry = FillGeometry(config)
        super().__init__(
            {
                "run": In(stream.Signature(RUN_LAYOUT)),
                "activations": In(stream.Signature(activation_layout(config))),
                "halt": In(1),
                "bank_done": In(config.banks),
                "bank_rows": In(range(config.rows + 1)),
                "bank_has_constants": In(1),
                "entry_freed": In(1),
                "requantized_left": In(config.banks),
                "free": Out(config.banks),
                "settled": Out(config.banks),
                "fill_write": Out(1),
                "fill_window_code": Out(index_shape(len(self._geometry.windows))),
                "fill_first_row": Out(index_shape(config.rows)),
                "fill_window_beat": Out(index_shape(self._geometry.max_beats_per_window)),
                "start": Out(1),
                "active_rows": Out(config.rows),
                "shift": Out(1),
                "issue": Out(1),
                "vector": Out(vector_layout(config)),
                "phase": Out(index_shape(max_phases(config))),
                "first_phase": Out(1),
                "first_slice": Out(1),
                "done": Out(1),
                "error": Out(4),
            }
        )

    def interval(self, pattern: Pattern, groups: int, rows: int) -> int:
        """Cycles from a vector's start to that of the next: max(T * A / b, beats)."""
        return vector_cycles(self._config, pattern, groups, rows, emits=False)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        layout = vector_layout(self._config)
        self._fill = Signal(layout)  # of the run whose beats are taken
        self._fill_active = Signal()
        self._fill_left = Signal(RUN_FIELDS["vectors"])  # vectors of the run, the one being filled included
        self._full = Signal(layout)
        self._full_valid = Signal()
        self._run_ends = Signal()
        self._vector_taken = Signal()
        self._loaded = Signal(self._config.banks)

        errors = [self._build_command(m), self._build_fill(m), self._build_start(m)]
        self._build_issue(m)
        self._build_banks(m)
        m.d.comb += self.error.eq(lowest_error(errors))
        return m

    # -- run commands --------------------------------------------------------------------------------------------------

    def _build_command(self, m: Module) -> Signal:
        """Take a command when no run is being filled, or with the last beat of the one before."""
        config = self._config
        command, error = self.run.payload, Signal(4, name="command_error")
        mode, window_code, legal_pattern, legal_groups = self._build_decoder(m, command)
        open_ = Signal()
        open_groups, open_vectors = Signal.like(command.groups), Signal.like(command.vectors)
        several = ~(command.first_k & command.last_k)
        # No accumulation holds more vectors than the memory has slots; v * G is compared without a wide shift.
        too_many = Signal()
        with m.Switch(command.groups):
            for level, count in enumerate(config.group_counts):
                with m.Case(level):
                    m.d.comb += too_many.eq(command.vectors > config.accumulator_depth // count)
        checks: list[tuple[Value, ErrorKind]] = [
            (command.bank >= config.banks, ErrorKind.RUN_BANK),
            (~legal_pattern, ErrorKind.RUN_PATTERN),
            (~legal_groups, ErrorKind.RUN_GROUPS),
            ((command.rows == 0) | (command.rows > config.rows), ErrorKind.RUN_ROWS),
            ((command.vectors == 0) | (several & too_many), ErrorKind.RUN_VECTORS),
            (
                Mux(
                    command.first_k,
                    open_,
                    ~open_ | (command.groups != open_groups) | (command.vectors != open_vectors),
                ),
                ErrorKind.RUN_ORDER,
            ),
            (command.requantize & (~command.last_k | (not config.requantizer)), ErrorKind.RUN_REQUANTIZE),
        ]

        m.d.comb += self.run.ready.eq(~self.halt & (~self._fill_active | self._run_ends))
        with m.If(self._run_ends):
            m.d.sync += self._fill_active.eq(0)
        with m.If(self.run.valid & self.run.ready):
            for wrong, kind in reversed(checks):
                with m.If(wrong):
                    m.d.comb += error.eq(kind)
            with m.If(error == 0):
                m.d.sync += [
                    self._fill_active.eq(1),
                    self._fill_left.eq(command.vectors),
                    self.fill_window_code.eq(window_code),
                    self._fill.mode.eq(mode),
                    self._fill.slot.eq(0),
                    *(
                        self._fill[name].eq(command[name])
                        for name in ("groups", "rows", "bank", "first_k", "last_k", "requantize", "release")
                    ),
                    open_.eq(~command.last_k),
                    open_groups.eq(command.groups),
                    open_vectors.eq(command.vectors),
                ]
        return error

    def _build_decoder(self, m: Module, command: data.View) -> tuple[Value, Value, Value, Value]:
        """Mode and window code of a command, and whether its pattern, and its groups with that pattern, are legal."""
        config = self._config
        mode = Signal(index_shape(len(config.modes)))
        window_code = Signal(index_shape(len(self._geometry.windows)))
        legal_groups = Signal()
        with m.Switch(Cat(command.pattern, command.groups)):
            for index, (pattern, groups) in enumerate(config.modes):
                code = config.patterns.index(pattern) | (groups.bit_length() - 1) << RUN_FIELDS["pattern"]
                with m.Case(code):
                    m.d.comb += [
                        legal_groups.eq(1),
                        mode.eq(index),
                        window_code.eq(self._geometry.windows.index(config.window(pattern, groups))),
                    ]
        return mode, window_code, command.pattern < len(config.patterns), legal_groups

    # -- filling -------------------------------------------------------------------------------------------------------

    def _build_fill(self, m: Module) -> Signal:
        """Take beats, window by window, while the fill half of the buffer is not full or just being copied."""
        rows_per_beat, beats_per_window = self._build_pace(m)
        error = Signal(4, name="fill_error")
        taken, final = Signal(name="beat_taken"), Signal(name="beat_final")
        window_final = self.fill_window_beat == beats_per_window - 1
        next_row = self.fill_first_row + rows_per_beat
        last = self.activations.payload.last
        m.d.comb += [
            self.activations.ready.eq(~self.halt & self._fill_active & (~self._full_valid | self.start)),
            taken.eq(self.activations.valid & self.activations.ready),
            final.eq(window_final & (next_row >= self._fill.rows)),
            self.fill_write.eq(taken),
            self._vector_taken.eq(taken & final & last),
            self._run_ends.eq(self._vector_taken & (self._fill_left == 1)),
        ]
        with m.If(taken):
            m.d.sync += self.fill_window_beat.eq(Mux(window_final, 0, self.fill_window_beat + 1))
            with m.If(window_final):
                m.d.sync += self.fill_first_row.eq(Mux(final, 0, next_row))
            with m.If(last != final):
                m.d.comb += error.eq(ErrorKind.ACTIVATIONS_LAST)

        with m.If(self.start):
            m.d.sync += self._full_valid.eq(0)
        with m.If(self._vector_taken):
            m.d.sync += [
                self._full_valid.eq(1),
                self._full.eq(self._fill),
                self._full.release.eq(self._fill.release & (self._fill_left == 1)),
            ]
            with m.If(~self._run_ends):
                m.d.sync += [
                    self._fill_left.eq(self._fill_left - 1),
                    self._fill.slot.eq(self._fill.slot + (1 << self._fill.groups)),
                ]
        return error

    def _build_pace(self, m: Module) -> tuple[Value, Value]:
        """Rows that a beat goes forward, and beats of a window, by the window code."""
        geometry = self._geometry
        rows_per_beat = Signal(range(self._config.rows + 1))
        beats_per_window = Signal(range(geometry.max_beats_per_window + 1))
        with m.Switch(self.fill_window_code):
            for code, window in enumerate(geometry.windows):
                with m.Case(code):
                    m.d.comb += [
                        rows_per_beat.eq(geometry.rows_per_beat(window)),
                        beats_per_window.eq(geometry.beats_per_window(window)),
                    ]
        return rows_per_beat, beats_per_window

    # -- starting and issuing ------------------------------------------------------------------------------------------

    def _build_start(self, m: Module) -> Signal:
        """Start the full vector once the array, its bank and a result entry are there; a bank must fit it."""
        config = self._config
        error = Signal(4, name="start_error")
        bank_rows = data.ArrayLayout(range(config.rows + 1), config.banks)
        loaded_rows, loaded_constants = Signal(bank_rows), Signal(config.banks)
        for bank in range(config.banks):
            with m.If(self.bank_done[bank]):
                m.d.sync += [loaded_rows[bank].eq(self.bank_rows), loaded_constants[bank].eq(self.bank_has_constants)]

        bank = self._full.bank
        there = Signal(name="bank_there")
        m.d.comb += there.eq(self._full_valid & self._loaded.bit_select(bank, 1))
        with m.If(there):
            with m.If(self._full.rows > loaded_rows[bank]):
                m.d.comb += error.eq(ErrorKind.RUN_ROWS)
            with m.Elif(self._full.requantize & ~loaded_constants.bit_select(bank, 1)):
                m.d.comb += error.eq(ErrorKind.RUN_REQUANTIZE)

        entries = Signal(range(result_entries(config) + 1), init=result_entries(config))
        room = ~self._full.last_k | (entries != 0)
        m.d.sync += entries.eq(entries + self.entry_freed - (self.start & self._full.last_k))
        m.d.comb += [
            self.start.eq(there & (error == 0) & (~self.issue | self.done) & room),
            self.active_rows.eq(Cat(row < self._full.rows for row in range(config.rows))),
        ]
        return error

    def _build_issue(self, m: Module) -> None:
        """Count phases (inner) and slices (outer) of the vector on the array."""
        config = self._config
        slice_ = Signal(range(config.slices))
        last_phase = Signal.like(self.phase)
        with m.Switch(self.vector.mode):
            for mode, (pattern, _) in enumerate(config.modes):
                with m.Case(mode):
                    m.d.comb += last_phase.eq(config.phases(pattern) - 1)
        slice_ends = self.phase == last_phase
        m.d.comb += [
            self.first_phase.eq(self.phase == 0),
            self.first_slice.eq(slice_ == 0),
            self.shift.eq(self.issue & slice_ends),
            self.done.eq(self.issue & slice_ends & (slice_ == config.slices - 1)),
        ]
        with m.If(self.issue):
            m.d.sync += self.phase.eq(Mux(slice_ends, 0, self.phase + 1))
            with m.If(slice_ends):
                m.d.sync += slice_.eq(Mux(self.done, 0, slice_ + 1))
            with m.If(self.done):
                m.d.sync += self.issue.eq(0)
        with m.If(self.start):
            m.d.sync += [self.issue.eq(1), self.vector.eq(self._full)]

    # -- banks ---------------------------------------------------------------------------------------------------------

    def _build_banks(self, m: Module) -> None:
        """A bank is free, then loaded, until the last vector of a run that releases it; it may be written with the
        last issue cycle.

        A write reaches the cells two cycles after its beat, and the columns read them one cycle after the issue.
        """
        config = self._config
        for bank in range(config.banks):
            free = Signal(name=f"free_{bank}", init=1)
            released = self.done & self.vector.release & (self.vector.bank == bank)
            m.d.comb += self.free[bank].eq(free | released)
            with m.If(released):
                m.d.sync += free.eq(1)
            with m.If(self.start & self._full.release & (self._full.bank == bank)):
                m.d.sync += self._loaded[bank].eq(0)
            with m.If(self.bank_done[bank]):
                m.d.sync += [free.eq(0), self._loaded[bank].eq(1)]
            if config.requantizer:
                self._build_settled(m, bank)

    def _build_settled(self, m: Module, bank: int) -> None:
        """Count the vectors that still need the bank's constants."""
        waiting = Signal(range(result_entries(self._config) + 1), name=f"waiting_{bank}")
        begins = self.start & self._full.requantize & (self._full.bank == bank)
        m.d.sync += waiting.eq(waiting + begins - self.requantized_left[bank])
        m.d.comb += self.settled[bank].eq(waiting == 0)
