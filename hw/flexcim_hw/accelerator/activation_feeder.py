"""Activations to all macros at once, from the stream or from the activation memory: executes the accelerator's runs."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from flexcim.accelerator.bus_words import run_words
from flexcim.accelerator.instructions import INSTRUCTION_BITS, AcceleratorError, Opcode
from flexcim.config.accelerator import AcceleratorConfig
from flexcim_hw.accelerator.intake import Intake
from flexcim_hw.common.errors import lowest_error
from flexcim_hw.common.ports import RUN_LAYOUT, activation_layout, instruction_layout, word_layout
from flexcim_hw.common.streams import fan_out, readiness

__all__ = ["ActivationFeeder"]


class ActivationFeeder(wiring.Component):
    """Sends a run to its macros, and then its beats, each to all of them in the same cycle.

    A run begins one cycle after its dispatch at the earliest (`latency`), and in the cycle of the last beat of the run
    before; its beats are taken from the next cycle on, one a cycle. So a run takes as many cycles as it has beats, or
    words of the stream if those are more (`interval`).

    Parameters
    ----------
    config : AcceleratorConfig
        The instance.

    Members
    -------
    instructions : In(stream of RUN instructions)
        What was dispatched. Ready depends on registers alone.
    words : In(stream of word_layout(activation_bus))
        The activation bus.
    halt : In(1)
        Move nothing. It stays until a reset.
    run, activations : Out(stream) for each macro
        The macros' streams of these names. All get the same payload, and the macros of a run take it in one cycle:
        valid waits for the ready of all of them. That makes no loop, as no ready of a macro depends on its own valid.
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
                "instructions": In(stream.Signature(instruction_layout(Opcode.RUN))),
                "words": In(stream.Signature(word_layout(config.activation_bus))),
                "halt": In(1),
                "run": Out(stream.Signature(RUN_LAYOUT)).array(config.macros),
                "activations": Out(stream.Signature(activation_layout(config.macro))).array(config.macros),
                "idle": Out(1),
                "stalled": Out(1),
                "error": Out(4),
            }
        )

    def interval(self, vectors: int, beats: int, *, replay: bool = False) -> int:
        """Cycles from a run of ``vectors`` vectors of ``beats`` beats to the next in the steady state, when the macros
        take all at once."""
        return max(vectors * beats, 0 if replay else run_words(self._config, vectors, beats))

    def elaborate(self, platform: object) -> Module:
        config = self._config
        m = Module()
        m.submodules.runs = runs = SyncFIFO(width=INSTRUCTION_BITS, depth=config.run_queue)
        wiring.connect(m, wiring.flipped(self.instructions), runs.w_stream)
        self._next = data.View(instruction_layout(Opcode.RUN), runs.r_data)
        self._current = Signal(instruction_layout(Opcode.RUN))
        self._active = Signal()
        self._begin = Signal()
        self._taken = Signal()
        self._run_ends = Signal()
        m.d.comb += [
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
        run, command = self._next, Signal(RUN_LAYOUT, name="run_payload")
        mask = run.macros[: self._config.macros]
        all_ready = (readiness(self.run) & mask) == mask
        m.d.comb += [
            *(command[name].eq(run[name]) for name in ("bank", "pattern", "groups", "rows", "vectors")),
            *(command[name].eq(run[name]) for name in ("first_k", "last_k", "release")),
            self._begin.eq(waits & ~self.halt & (~self._active | self._run_ends) & all_ready),
        ]
        fan_out(m, self.run, command, Mux(self._begin, mask, 0))

    def _build_source(self, m: Module) -> tuple[Value, Value, Value]:
        """The next beat, whether it is there, and an error's kind."""
        config, current = self._config, self._current
        m.submodules.intake = intake = Intake(
            config.activation_bus, config.activation_beat_bits, config.run_queue, AcceleratorError.ACTIVATIONS_LAST
        )
        wiring.connect(m, wiring.flipped(self.words), intake.words)
        dispatched = self.instructions
        m.d.comb += [
            # All images that wait are of runs that wait, so there is room for one where there is for its run.
            intake.images.valid.eq(dispatched.valid & dispatched.ready & ~dispatched.payload.replay),
            intake.images.payload.eq(dispatched.payload.words),
            intake.halt.eq(self.halt),
            intake.beats.ready.eq(self._taken & ~current.replay),
            intake.final.eq(self._run_ends),
        ]
        beats = intake.beats
        if not config.activation_memory:
            return beats.payload, beats.valid, intake.error
        stored, past = self._build_memory(m, beats.payload)
        error = Mux(past, AcceleratorError.MEMORY, 0)
        there = (beats.valid | current.replay) & ~past
        return Mux(current.replay, stored, beats.payload), there, lowest_error([error, intake.error])

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
            ready.eq(self._active & ~self.halt & ((readiness(self.activations) & mask) == mask)),
            self._taken.eq(ready & there),
            self.stalled.eq(ready & ~there),
            vector_ends.eq(beats + 1 == current.beats),
            self._run_ends.eq(self._taken & vector_ends & (vectors + 1 == current.vectors)),
        ]
        fan_out(m, self.activations, Cat(beat, vector_ends), Mux(self._taken, mask, 0))
        with m.If(self._taken):
            m.d.sync += beats.eq(Mux(vector_ends, 0, beats + 1))
            with m.If(vector_ends):
                m.d.sync += vectors.eq(Mux(self._run_ends, 0, vectors + 1))
