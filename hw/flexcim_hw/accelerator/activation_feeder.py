"""Activations to all macros at once, from the stream or from the activation memory: executes the accelerator's runs."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from flexcim.accelerator.instructions import INSTRUCTION_BITS, AcceleratorError, Opcode
from flexcim.config.accelerator import AcceleratorConfig
from flexcim_hw.accelerator.intake import Intake
from flexcim_hw.common.errors import lowest_error
from flexcim_hw.common.ports import RUN_LAYOUT, activation_layout, instruction_layout

__all__ = ["ActivationFeeder"]


class ActivationFeeder(wiring.Component):
    """Sends a run to its macros, and then its beats, each to all of them in the same cycle.

    A run begins one cycle after its dispatch at the earliest (`latency`), and in the cycle of the last beat of the run
    before; its beats are taken from the next cycle on, one a cycle.

    Parameters
    ----------
    config : AcceleratorConfig
        The instance.

    Members
    -------
    run, instruction, room : In(1), In(128), Out(1)
        A dispatched run; whether there is room for one.
    halt : In(1)
        Move nothing.
    bus_data, bus_last, bus_valid, bus_ready : In(activation_bus), In(1), In(1), Out(1)
        The AXI4-Stream.
    run_payload, run_valid, run_ready : Out, Out(M), In(M)
        The macros' ``run`` streams, which share the payload.
    activations_payload, activations_valid, activations_ready : Out, Out(M), In(M)
        The macros' ``activations`` streams, likewise.
    idle : Out(1)
        All activations have moved.
    stalled : Out(1)
        The macros could take a beat, and none is there.
    error : Out(4)
        The kind of an error in this cycle, 0 when there is none.
    """

    latency = 1

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "run": In(1),
                "instruction": In(INSTRUCTION_BITS),
                "room": Out(1),
                "halt": In(1),
                "bus_data": In(config.activation_bus),
                "bus_last": In(1),
                "bus_valid": In(1),
                "bus_ready": Out(1),
                "run_payload": Out(RUN_LAYOUT.size),
                "run_valid": Out(config.macros),
                "run_ready": In(config.macros),
                "activations_payload": Out(activation_layout(config.macro).size),
                "activations_valid": Out(config.macros),
                "activations_ready": In(config.macros),
                "idle": Out(1),
                "stalled": Out(1),
                "error": Out(4),
            }
        )

    def elaborate(self, platform: object) -> Module:
        config = self._config
        m = Module()
        m.submodules.runs = runs = SyncFIFO(width=INSTRUCTION_BITS, depth=config.run_queue)
        layout = instruction_layout(Opcode.RUN)
        self._next = data.View(layout, runs.r_data)
        self._current = Signal(layout)
        self._active = Signal()
        self._begin = Signal()
        self._taken = Signal()
        self._run_ends = Signal()
        m.d.comb += [
            self.room.eq(runs.w_rdy),
            runs.w_en.eq(self.run),
            runs.w_data.eq(self.instruction),
            runs.r_en.eq(self._begin),
            self.idle.eq(~runs.r_rdy & ~self._active),
        ]
        with m.If(self._run_ends):
            m.d.sync += self._active.eq(0)
        with m.If(self._begin):
            m.d.sync += [self._active.eq(1), self._current.eq(runs.r_data)]
        self._build_command(m, runs.r_rdy)
        beat, there, error = self._build_source(m)
        self._build_beats(m, beat, there)
        m.d.comb += self.error.eq(error)
        return m

    def _build_command(self, m: Module, waits: Value) -> None:
        """Send the next run to its macros when all of them, and the feeder, are done with the run before."""
        run, command = self._next, data.View(RUN_LAYOUT, self.run_payload)
        mask = run.macros[: self._config.macros]
        m.d.comb += [
            *(command[name].eq(run[name]) for name in ("bank", "pattern", "groups", "rows", "vectors")),
            *(command[name].eq(run[name]) for name in ("first_k", "last_k", "release")),
            self._begin.eq(waits & ~self.halt & (~self._active | self._run_ends) & ((self.run_ready & mask) == mask)),
            self.run_valid.eq(Mux(self._begin, mask, 0)),
        ]

    def _build_source(self, m: Module) -> tuple[Value, Value, Value]:
        """The next beat, whether it is there, and an error's kind."""
        config, current = self._config, self._current
        m.submodules.intake = intake = Intake(
            config.activation_bus, config.activation_beat_bits, config.run_queue, AcceleratorError.ACTIVATIONS_LAST
        )
        run = data.View(instruction_layout(Opcode.RUN), self.instruction)
        m.d.comb += [
            intake.image.eq(self.run & ~run.replay),
            intake.image_words.eq(run.words),
            intake.halt.eq(self.halt),
            *(getattr(intake, port).eq(getattr(self, port)) for port in ("bus_data", "bus_last", "bus_valid")),
            self.bus_ready.eq(intake.bus_ready),
            intake.take.eq(self._taken & ~current.replay),
            intake.final.eq(self._run_ends),
        ]
        if not config.activation_memory:
            return intake.beat, intake.valid, intake.error
        stored, past = self._build_memory(m, intake.beat)
        error = Mux(past, AcceleratorError.MEMORY, 0)
        there = (intake.valid | current.replay) & ~past
        return Mux(current.replay, stored, intake.beat), there, lowest_error([error, intake.error])

    def _build_memory(self, m: Module, beat: Value) -> tuple[Value, Value]:
        """The activation memory; returns the beat at the run's place, and whether that is past the end.

        The read port's word stays while it is not enabled, so it is asked for the next beat as one is taken, and for
        the next run's first as that begins. What is written in the cycle of a read is seen by it.
        """
        config, current = self._config, self._current
        m.submodules.memory = memory = Memory(
            shape=unsigned(config.activation_beat_bits), depth=config.activation_memory, init=[]
        )
        write = memory.write_port()
        read = memory.read_port(transparent_for=(write,))
        address = Signal(range(config.activation_memory + 1))
        following = Signal.like(address)
        past = Signal(name="past_the_memory")
        m.d.comb += [
            following.eq(Mux(self._begin, self._next.address, address + self._taken)),
            read.addr.eq(following),
            read.en.eq(self._begin | self._taken),
            write.addr.eq(address),
            write.data.eq(beat),
            write.en.eq(self._taken & current.store),
            past.eq(self._active & (current.replay | current.store) & (address == config.activation_memory)),
        ]
        m.d.sync += address.eq(following)
        return read.data, past

    def _build_beats(self, m: Module, beat: Value, there: Value) -> None:
        """Give each beat to all macros of the run in one cycle, and count beats and vectors."""
        current = self._current
        mask = current.macros[: self._config.macros]
        ready, vector_ends = Signal(name="macros_ready"), Signal(name="vector_ends")
        beats = Signal.like(current.beats, name="beats_taken")
        vectors = Signal.like(current.vectors, name="vectors_taken")
        m.d.comb += [
            ready.eq(self._active & ~self.halt & ((self.activations_ready & mask) == mask)),
            self._taken.eq(ready & there),
            self.stalled.eq(ready & ~there),
            vector_ends.eq(beats + 1 == current.beats),
            self._run_ends.eq(self._taken & vector_ends & (vectors + 1 == current.vectors)),
            self.activations_valid.eq(Mux(self._taken, mask, 0)),
            self.activations_payload.eq(Cat(beat, vector_ends)),
        ]
        with m.If(self._taken):
            m.d.sync += beats.eq(Mux(vector_ends, 0, beats + 1))
            with m.If(vector_ends):
                m.d.sync += vectors.eq(Mux(self._run_ends, 0, vectors + 1))
