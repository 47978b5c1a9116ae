"""The program memory of the accelerator, and what carries its instructions out (docs/architecture.md, section 7.2)."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from flexcim.accelerator.instructions import (
    INSTRUCTION_BITS,
    INSTRUCTION_FIELDS,
    INSTRUCTION_WORDS,
    AcceleratorError,
    Opcode,
)
from flexcim.config.accelerator import AcceleratorConfig
from flexcim_hw.common.ports import instruction_layout
from flexcim_hw.common.shared_modules import index_shape

__all__ = ["ProgramControl", "ProgramSequencer"]

POSITION_BITS = 17
"""Bits of a place in the program: one more than the largest memory needs, so that a place past its end is seen."""

PROGRAM_ADDRESS_BITS = 18
"""Bits of the address of a 32-bit word in the largest program memory."""


class ProgramControl(wiring.Signature):
    """What the host has the sequencer do, and sees of it, from the host's side.

    Nothing holds a write or a start back, so they are no streams: one that comes while a program runs is an error.

    Members
    -------
    write, write_address, write_data : Out(1), Out(18), Out(32)
        Writes a 32-bit word of the program memory, when no program runs.
    start, entry : Out(1), Out(16)
        Begin with the instruction at this place.
    running : In(1)
        A program runs.
    done : In(1)
        With this cycle it has ended.
    position : In(17)
        The place of the instruction that is fetched or waits.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "write": Out(1),
                "write_address": Out(PROGRAM_ADDRESS_BITS),
                "write_data": Out(32),
                "start": Out(1),
                "entry": Out(16),
                "running": In(1),
                "done": In(1),
                "position": In(POSITION_BITS),
            }
        )


class ProgramSequencer(wiring.Component):
    """Fetches instructions, checks them, and dispatches each once there is room for it.

    Two cycles an instruction (`interval`): the memory is read in the first, and in the second or later the instruction
    is dispatched. The first is dispatched two cycles after the start (`latency`).

    It keeps which banks are loaded in program order, so that a load that would wait for ever, and a run without
    weights, are refused when they are dispatched, whatever the streams do.

    Parameters
    ----------
    config : AcceleratorConfig
        The instance.

    Members
    -------
    control : In(ProgramControl)
        The host.
    halt : In(1)
        Dispatch nothing more, and begin nothing. It stays until a reset, so what was offered may be taken back.
    loads, runs, result_runs : Out(stream of instructions)
        What is dispatched: the loads, the runs, and of these the ones with results once more. A run with results goes
        to both streams in one cycle: valid of each waits for the ready of the other. So none of their far ends may
        have its ready depend on a valid; they have queues.
    moved : In(1)
        All that was dispatched has moved.
    overrun : Out(1)
        A start or a write that comes while a program runs, or a write past the end of the memory.
    error : Out(4)
        The kind of another error in this cycle, 0 when there is none.
    """

    latency = 2
    interval = 2

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "control": In(ProgramControl()),
                "halt": In(1),
                "loads": Out(stream.Signature(instruction_layout(Opcode.LOAD))),
                "runs": Out(stream.Signature(instruction_layout(Opcode.RUN))),
                "result_runs": Out(stream.Signature(instruction_layout(Opcode.RUN))),
                "moved": In(1),
                "overrun": Out(1),
                "error": Out(4),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        control = self.control
        self._instruction = Signal(INSTRUCTION_BITS)
        self._legal = Signal()  # the instruction may be carried out
        self._go = Signal()  # and is, as there is room for it
        self._packet_open = Signal()
        self._in_loop = Signal()
        self._write_past = Signal()
        banks, macros = self._config.macro.banks, self._config.macros
        self._loaded = [Signal(macros, name=f"loaded_bank_{bank}") for bank in range(banks)]  # a bit for each macro
        fetch = self._build_memory(m)
        past = Signal()
        m.d.comb += past.eq(control.position >= self._config.program_depth)
        for dispatched in (self.loads, self.runs, self.result_runs):
            m.d.comb += Value.cast(dispatched.payload).eq(self._instruction)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(control.start & ~self.halt):
                    m.d.sync += [control.running.eq(1), control.position.eq(control.entry)]
                    m.next = "FETCH"
            with m.State("FETCH"):
                m.d.comb += fetch.eq(1)
                with m.If(past):
                    m.d.comb += self.error.eq(AcceleratorError.PROGRAM_END)
                with m.If(~self.halt & ~past):
                    m.next = "DISPATCH"
            with m.State("DISPATCH"):
                self._build_dispatch(m)
                with m.If(self._go):
                    m.next = "FETCH"
                    with m.If(self._view(Opcode.END).op == Opcode.END):
                        m.next = "DRAIN"
            with m.State("DRAIN"):
                m.d.comb += control.done.eq(self.moved & ~self.halt)
                with m.If(control.done):
                    m.d.sync += control.running.eq(0)
                    m.next = "IDLE"
        untimely = control.running & (control.start | control.write)
        m.d.comb += self.overrun.eq(untimely | (control.write & self._write_past))
        return m

    def _view(self, op: Opcode) -> data.View:
        return data.View(instruction_layout(op), self._instruction)

    def _build_memory(self, m: Module) -> Signal:
        """The memory; returns the enable of its read port, whose word stays until the next read."""
        control, depth = self.control, self._config.program_depth
        m.submodules.memory = memory = Memory(shape=unsigned(INSTRUCTION_BITS), depth=depth, init=[])
        write, read = memory.write_port(granularity=32), memory.read_port()
        fetch = Signal()
        lane_bits = ceil_log2(INSTRUCTION_WORDS)
        m.d.comb += self._write_past.eq(_reaches(control.write_address, depth * INSTRUCTION_WORDS))
        m.d.comb += [
            write.addr.eq(control.write_address[lane_bits:]),
            write.data.eq(Cat(control.write_data for _ in range(INSTRUCTION_WORDS))),
            write.en.eq((control.write & ~self._write_past & ~control.running) << control.write_address[:lane_bits]),
            read.addr.eq(control.position),
            read.en.eq(fetch),
            self._instruction.eq(read.data),
        ]
        return fetch

    def _build_dispatch(self, m: Module) -> None:
        """Check the instruction, and carry it out as soon as there is room."""
        load, run = self._view(Opcode.LOAD), self._view(Opcode.RUN)
        room = Signal()
        loaded = self._build_banks(m)
        with m.Switch(load.op):
            with m.Case(Opcode.END):
                m.d.comb += room.eq(1)
                self._refuse(
                    m,
                    (self._spare_bits(Opcode.END), AcceleratorError.INSTRUCTION),
                    (self._in_loop, AcceleratorError.LOOP),
                    (self._packet_open, AcceleratorError.PACKET),
                )
            with m.Case(Opcode.LOAD):
                m.d.comb += [room.eq(self.loads.ready), self.loads.valid.eq(self._legal)]
                self._refuse(
                    m,
                    (self._spare_bits(Opcode.LOAD), AcceleratorError.INSTRUCTION),
                    (load.macro >= self._config.macros, AcceleratorError.MACROS),
                    (load.words == 0, AcceleratorError.WORDS),
                    (self._no_bank(load.bank) | loaded.bit_select(self._macro(load), 1), AcceleratorError.BANK),
                )
            with m.Case(Opcode.RUN):
                results_ready = self.result_runs.ready | ~run.last_k
                m.d.comb += [
                    room.eq(self.runs.ready & results_ready),
                    self.runs.valid.eq(self._legal & results_ready),
                    self.result_runs.valid.eq(self._legal & run.last_k & self.runs.ready),
                ]
                self._refuse_run(m, run, loaded)
                with m.If(self._go & run.last_k):
                    m.d.sync += self._packet_open.eq(~run.end_packet)
            with m.Case(Opcode.LOOP):
                m.d.comb += room.eq(1)
            with m.Default():
                self._refuse(m, (Value.cast(1), AcceleratorError.INSTRUCTION))
        self._build_position(m)
        m.d.comb += [self._legal.eq(~self.halt & (self.error == 0)), self._go.eq(self._legal & room)]

    def _build_banks(self, m: Module) -> Signal:
        """Keep which banks are loaded; returns for the instruction's bank in which macros it is."""
        load, run = self._view(Opcode.LOAD), self._view(Opcode.RUN)  # which have ``bank`` at the same place
        loaded = Signal(self._config.macros, name="loaded_macros")
        with m.Switch(run.bank):
            for bank, macros in enumerate(self._loaded):
                with m.Case(bank):
                    m.d.comb += loaded.eq(macros)
                    with m.If(self.loads.valid & self.loads.ready):
                        m.d.sync += macros.eq(macros | (1 << self._macro(load)))
                    with m.Elif(self.runs.valid & self.runs.ready & run.release):
                        m.d.sync += macros.eq(macros & ~run.macros)
        return loaded

    def _macro(self, load: data.View) -> Value:
        """The macro of a load, once it is known to be there."""
        return load.macro[: index_shape(self._config.macros).width]

    def _no_bank(self, bank: Value) -> Value:
        """Whether the macros have no such bank."""
        return _reaches(bank, self._config.macro.banks)

    def _refuse_run(self, m: Module, run: data.View, loaded: Value) -> None:
        config = self._config
        memory = Signal(name="uses_memory")
        m.d.comb += memory.eq(run.replay | run.store)
        self._refuse(
            m,
            (self._spare_bits(Opcode.RUN), AcceleratorError.INSTRUCTION),
            ((run.macros == 0) | _reaches(run.macros, 1 << config.macros), AcceleratorError.MACROS),
            (
                (run.replay & run.store)
                | (memory & _reaches(run.address, config.activation_memory))
                | (~memory & (run.address != 0)),
                AcceleratorError.MEMORY,
            ),
            ((run.words == 0) != run.replay, AcceleratorError.WORDS),
            (self._no_bank(run.bank) | (run.macros & ~loaded).any(), AcceleratorError.BANK),
        )

    def _build_position(self, m: Module) -> None:
        """Go on to the next instruction, or back to a loop's first."""
        loop = self._view(Opcode.LOOP)
        first = Signal(POSITION_BITS, name="loop_first")
        last = Signal(POSITION_BITS, name="loop_last")
        left = Signal(INSTRUCTION_FIELDS[Opcode.LOOP]["count"][1], name="loop_left")
        position = self.control.position
        follows = position + 1
        with m.If(self._go):
            m.d.sync += position.eq(follows)
            with m.If(self._in_loop & (position == last)):
                m.d.sync += left.eq(left - 1)
                with m.If(left == 1):
                    m.d.sync += self._in_loop.eq(0)
                with m.Else():
                    m.d.sync += position.eq(first)
        with m.If(loop.op == Opcode.LOOP):
            self._refuse(
                m,
                (self._spare_bits(Opcode.LOOP), AcceleratorError.INSTRUCTION),
                (self._in_loop | (loop.length == 0) | (loop.count == 0), AcceleratorError.LOOP),
            )
            with m.If(self._go):
                m.d.sync += [
                    self._in_loop.eq(1),
                    first.eq(follows),
                    last.eq(position + loop.length),
                    left.eq(loop.count),
                ]

    def _refuse(self, m: Module, *checks: tuple[Value, AcceleratorError]) -> None:
        """Name the first of the checks that finds something wrong."""
        for wrong, kind in reversed(checks):
            with m.If(wrong):
                m.d.comb += self.error.eq(kind)

    def _spare_bits(self, op: Opcode) -> Value:
        """Whether a bit is set that this instruction does not have."""
        named = sum(((1 << width) - 1) << start for start, width in INSTRUCTION_FIELDS[op].values())
        return (self._instruction & ~named & ((1 << INSTRUCTION_BITS) - 1)).any()


def _reaches(value: Value, bound: int) -> Value:
    """Whether an unsigned value is at least ``bound``; a constant where its width says so, as linters ask for."""
    if bound <= 0 or bound >= 1 << len(value):
        return Const(int(bound <= 0), 1)
    return value >= bound
