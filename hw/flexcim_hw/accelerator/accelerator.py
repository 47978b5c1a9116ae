"""The accelerator: macros, the feeders and the merger around them, the sequencer, and the registers."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from flexcim.accelerator.cycles import AcceleratorTiming
from flexcim.accelerator.instructions import AcceleratorError, AcceleratorProgram
from flexcim.accelerator.registers import ADDRESS_BITS
from flexcim.config.accelerator import AcceleratorConfig
from flexcim_hw.accelerator.activation_feeder import ActivationFeeder
from flexcim_hw.accelerator.program_sequencer import ProgramControl, ProgramSequencer
from flexcim_hw.accelerator.register_buses import Axi4LiteBridge, WishboneBridge
from flexcim_hw.accelerator.register_file import RegisterFile
from flexcim_hw.accelerator.result_merger import ResultMerger
from flexcim_hw.accelerator.weight_feeder import WeightFeeder
from flexcim_hw.common.buses import Axi4Lite, Axi4Stream, Wishbone, bus, pins
from flexcim_hw.common.errors import lowest_error
from flexcim_hw.common.ports import packet_word_layout, word_layout
from flexcim_hw.common.shared_modules import place_component
from flexcim_hw.macro.macro import Macro

__all__ = ["Accelerator", "AcceleratorCore", "accelerator_buses"]

COUNTERS = ("cycles", "weight_stalls", "activation_stalls", "result_stalls")


class AcceleratorCore(wiring.Component):
    """Everything but the registers (docs/architecture.md, section 7).

    A program's first instruction is dispatched two cycles after the start (`latency`), and all has moved after the
    cycles of section 7.5 (`interval`).

    Parameters
    ----------
    config : AcceleratorConfig
        The instance.

    Members
    -------
    weights, activations : In(stream of word_layout)
        The words of the input buses.
    results : Out(stream of packet_word_layout)
        The words of the result bus.
    control : In(ProgramControl)
        The host.
    error, error_macro, error_macro_kind : Out(4)
        The first error, and for one of a macro which, and its kind.
    cycles, weight_stalls, activation_stalls, result_stalls : Out(32)
        Counters of the program.
    """

    latency = ProgramSequencer.latency

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "weights": In(stream.Signature(word_layout(config.weight_bus))),
                "activations": In(stream.Signature(word_layout(config.activation_bus))),
                "results": Out(stream.Signature(packet_word_layout(config.result_bus))),
                "control": In(ProgramControl()),
                "error": Out(4),
                "error_macro": Out(4),
                "error_macro_kind": Out(4),
                **{name: Out(32) for name in COUNTERS},
            }
        )

    def interval(self, program: AcceleratorProgram) -> int:
        """Cycles from a program's start until all has moved, when the streams flow freely."""
        return AcceleratorTiming(self.config).run(program).cycles

    def elaborate(self, platform: object) -> Module:
        config = self.config
        m = Module()
        m.submodules.sequencer = self._sequencer = ProgramSequencer(config)
        m.submodules.weight_feeder = self._weights = WeightFeeder(config)
        m.submodules.activation_feeder = self._activations = ActivationFeeder(config)
        m.submodules.result_merger = self._results = ResultMerger(config)
        self._halt = Signal()
        m.d.comb += self._halt.eq(self.error != 0)
        self._build_program(m)
        self._build_buses(m)
        errors = self._build_macros(m, platform)
        self._build_error(m, errors)
        self._build_counters(m)
        return m

    def _build_program(self, m: Module) -> None:
        """The sequencer, and what it dispatches."""
        sequencer, weights, activations, results = self._sequencer, self._weights, self._activations, self._results
        wiring.connect(m, wiring.flipped(self.control), sequencer.control)
        wiring.connect(m, sequencer.loads, weights.instructions)
        wiring.connect(m, sequencer.runs, activations.instructions)
        wiring.connect(m, sequencer.result_runs, results.instructions)
        m.d.comb += [
            sequencer.moved.eq(weights.idle & activations.idle & results.idle),
            *(part.halt.eq(self._halt) for part in (sequencer, weights, activations)),
        ]

    def _build_buses(self, m: Module) -> None:
        wiring.connect(m, wiring.flipped(self.weights), self._weights.words)
        wiring.connect(m, wiring.flipped(self.activations), self._activations.words)
        wiring.connect(m, self._results.words, wiring.flipped(self.results))

    def _build_macros(self, m: Module, platform: object) -> list[Value]:
        """The macros; returns their sticky errors."""
        errors = []
        for index in range(self.config.macros):
            macro = place_component(m, platform, f"macro_{index}", "macro", lambda: Macro(self.config.macro))
            wiring.connect(m, self._weights.load[index], macro.load)
            wiring.connect(m, self._weights.weights[index], macro.weights)
            wiring.connect(m, self._activations.run[index], macro.run)
            wiring.connect(m, self._activations.activations[index], macro.activations)
            wiring.connect(m, macro.results, self._results.results[index])
            errors.append(macro.error)
        return errors

    def _build_error(self, m: Module, macro_errors: list[Value]) -> None:
        """Keep the first error, the lower kind of one cycle."""
        sequencer = self._sequencer
        wrong_macro = Signal(4)
        macro_kind = Signal(4)
        for index, kind in reversed(list(enumerate(macro_errors))):
            with m.If(kind != 0):
                m.d.comb += [wrong_macro.eq(index), macro_kind.eq(kind)]
        kinds = [
            sequencer.error,
            self._weights.error,
            self._activations.error,
            Mux(sequencer.overrun, AcceleratorError.OVERRUN, 0),
            Mux(macro_kind != 0, AcceleratorError.MACRO, 0),
        ]
        with m.If(~self._halt):
            m.d.sync += self.error.eq(lowest_error(kinds))
            with m.If(lowest_error(kinds) == AcceleratorError.MACRO):
                m.d.sync += [self.error_macro.eq(wrong_macro), self.error_macro_kind.eq(macro_kind)]

    def _build_counters(self, m: Module) -> None:
        """Count while a program runs; a start clears."""
        control = self.control
        stalls = (self._weights.stalled, self._activations.stalled, self._results.stalled)
        for name, event in zip(COUNTERS, (Value.cast(1), *stalls), strict=True):
            counter = getattr(self, name)
            with m.If(control.start & ~control.running):
                m.d.sync += counter.eq(0)
            with m.Elif(control.running & ~self._halt & event):
                m.d.sync += counter.eq(counter + 1)


def accelerator_buses(config: AcceleratorConfig) -> dict[str, wiring.Member]:
    """The buses of an accelerator, by the names that their pins in Verilog begin with."""
    buses = {
        "s_axis_weights": In(Axi4Stream(config.weight_bus)),
        "s_axis_activations": In(Axi4Stream(config.activation_bus)),
        "m_axis_results": Out(Axi4Stream(config.result_bus, keep=True)),
    }
    if config.register_bus == "axi4-lite":
        return buses | {"s_axil": In(Axi4Lite(ADDRESS_BITS))}
    return buses | {"wb": In(Wishbone(ADDRESS_BITS))}


class Accelerator(wiring.Component):
    """The core behind its registers, with the names that its pins have in Verilog.

    A write to a register acts `latency` cycles after the bus takes it: one by AXI4-Lite, none by Wishbone. There may be
    one every two cycles (`interval`). What the core does then takes the core's cycles, and one more to STATUS and irq.

    Parameters
    ----------
    config : AcceleratorConfig
        The instance.

    Members
    -------
    s_axis_weights_*, s_axis_activations_*, m_axis_results_* : In, Out
        The pins of the AXI4-Streams.
    s_axil_* or wb_* : In, Out
        The pins of the registers' bus.
    irq : Out(1)
        Interrupt request, level.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self._bridge = Axi4LiteBridge() if config.register_bus == "axi4-lite" else WishboneBridge()
        self._buses = accelerator_buses(config)
        members = {pin: port for name, member in self._buses.items() for pin, port in pins(name, member).items()}
        super().__init__({**members, "irq": Out(1)})

    @property
    def latency(self) -> int:
        """Cycles from a write's last word on the bus to what it does: the answer comes one cycle later."""
        return self._bridge.latency - 1

    @property
    def interval(self) -> int:
        """Cycles from a write to the next."""
        return self._bridge.interval

    def elaborate(self, platform: object) -> Module:
        m = Module()
        weights, activations, results, host = (bus(self, name, member) for name, member in self._buses.items())
        m.submodules.bridge = bridge = self._bridge
        m.submodules.registers = registers = RegisterFile(self.config)
        wiring.connect(m, host, bridge.bus)
        wiring.connect(m, bridge.registers, registers.access)
        core = place_component(
            m, platform, "core", "core", lambda: AcceleratorCore(self.config), reset=registers.control_reset
        )
        _connect_words(m, weights, core.weights)
        _connect_words(m, activations, core.activations)
        m.d.comb += [
            results.tdata.eq(core.results.payload.data),
            results.tkeep.eq(core.results.payload.keep),
            results.tlast.eq(core.results.payload.last),
            results.tvalid.eq(core.results.valid),
            core.results.ready.eq(results.tready),
        ]
        self._build_registers(m, registers, core)
        return m

    def _build_registers(self, m: Module, registers: RegisterFile, core: Any) -> None:
        """What the registers have the core do, and what they show of it."""
        control, start = core.control, registers.control_start
        done, failed = Signal(), core.error != 0
        with m.If(control.done):
            m.d.sync += done.eq(1)
        with m.If(start | registers.control_reset | registers.control_clear_done):
            m.d.sync += done.eq(0)
        m.d.comb += [
            control.write.eq(registers.program_data_written),
            control.write_address.eq(registers.program_address_word),
            control.write_data.eq(registers.program_data_word),
            control.start.eq(start),
            control.entry.eq(registers.program_entry_instruction),
            registers.status_running.eq(control.running),
            registers.status_done.eq(done),
            registers.status_error.eq(failed),
            registers.error_kind.eq(core.error),
            registers.error_macro.eq(core.error_macro),
            registers.error_macro_kind.eq(core.error_macro_kind),
            registers.position_instruction.eq(control.position),
            *(getattr(registers, f"{name}_count").eq(getattr(core, name)) for name in COUNTERS),
            self.irq.eq((done & registers.interrupt_done) | (failed & registers.interrupt_error)),
        ]


def _connect_words(m: Module, axis: Any, words: Any) -> None:
    """Connect an AXI4-Stream to a stream of words, which differ in names alone."""
    m.d.comb += [
        words.payload.data.eq(axis.tdata),
        words.payload.last.eq(axis.tlast),
        words.valid.eq(axis.tvalid),
        axis.tready.eq(words.ready),
    ]
