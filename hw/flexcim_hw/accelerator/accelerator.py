"""The accelerator: macros, the feeders and the merger around them, the sequencer, and the registers."""

from __future__ import annotations

from collections.abc import Mapping

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from flexcim.accelerator.instructions import INSTRUCTION_FIELDS, AcceleratorError, Opcode
from flexcim.config.accelerator import AcceleratorConfig
from flexcim_hw.accelerator.activation_feeder import ActivationFeeder
from flexcim_hw.accelerator.program_sequencer import POSITION_BITS, PROGRAM_ADDRESS_BITS, ProgramSequencer
from flexcim_hw.accelerator.register_buses import AXI4_LITE_PORTS, WISHBONE_PORTS, Axi4LiteBridge, WishboneBridge
from flexcim_hw.accelerator.register_file import RegisterFile, register_bus
from flexcim_hw.accelerator.result_merger import ResultMerger
from flexcim_hw.accelerator.weight_feeder import WeightFeeder
from flexcim_hw.common.errors import lowest_error
from flexcim_hw.common.shared_modules import place
from flexcim_hw.macro.macro import Macro

__all__ = ["Accelerator", "AcceleratorCore", "accelerator_members", "register_prefix"]

_LAST_K = INSTRUCTION_FIELDS[Opcode.RUN]["last_k"][0]
"""Bit of an instruction that says whether a run's results leave."""

_PROGRAM_INPUTS = ("write", "write_address", "write_data", "entry")

COUNTERS = ("cycles", "weight_stalls", "activation_stalls", "result_stalls")


def _streams(config: AcceleratorConfig) -> dict[str, wiring.Member]:
    """The three AXI4-Streams."""
    inputs: dict[str, wiring.Member] = {}
    for name, width in (("weights", config.weight_bus), ("activations", config.activation_bus)):
        inputs |= {
            f"s_axis_{name}_tdata": In(width),
            f"s_axis_{name}_tlast": In(1),
            f"s_axis_{name}_tvalid": In(1),
            f"s_axis_{name}_tready": Out(1),
        }
    return inputs | {
        "m_axis_results_tdata": Out(config.result_bus),
        "m_axis_results_tkeep": Out(config.result_bus // 8),
        "m_axis_results_tlast": Out(1),
        "m_axis_results_tvalid": Out(1),
        "m_axis_results_tready": In(1),
    }


def register_prefix(config: AcceleratorConfig) -> str:
    """What the names of the register bus begin with."""
    return "s_axil_" if config.register_bus == "axi4-lite" else "wb_"


def _bus_ports(config: AcceleratorConfig) -> dict[str, wiring.Member]:
    """The register bus, without prefix."""
    return AXI4_LITE_PORTS if config.register_bus == "axi4-lite" else WISHBONE_PORTS


def accelerator_members(config: AcceleratorConfig) -> dict[str, wiring.Member]:
    """The ports of an accelerator but for clock and reset, in their order."""
    prefix = register_prefix(config)
    bus = {f"{prefix}{name}": member for name, member in _bus_ports(config).items()}
    return {**_streams(config), **bus, "irq": Out(1)}


class AcceleratorCore(wiring.Component):
    """Everything but the registers (docs/architecture.md, section 7).

    Parameters
    ----------
    config : AcceleratorConfig
        The instance.

    Members
    -------
    s_axis_weights_*, s_axis_activations_*, m_axis_results_* : In, Out
        The AXI4-Streams.
    write, write_address, write_data : In
        Writes a word of the program memory.
    start, entry : In(1), In(16)
        Starts the program at this place.
    running, done : Out(1)
        A program runs; with this cycle it has ended.
    position : Out
        Place of the instruction that is fetched or waits.
    error, error_macro, error_macro_kind : Out(4)
        The first error, and for one of a macro which, and its kind.
    cycles, weight_stalls, activation_stalls, result_stalls : Out(32)
        Counters of the program.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                **_streams(config),
                "write": In(1),
                "write_address": In(PROGRAM_ADDRESS_BITS),
                "write_data": In(32),
                "start": In(1),
                "entry": In(16),
                "running": Out(1),
                "done": Out(1),
                "position": Out(POSITION_BITS),
                "error": Out(4),
                "error_macro": Out(4),
                "error_macro_kind": Out(4),
                **{name: Out(32) for name in COUNTERS},
            }
        )

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
        self._build_streams(m)
        errors = self._build_macros(m, platform)
        self._build_error(m, errors)
        self._build_counters(m)
        return m

    def _build_program(self, m: Module) -> None:
        """The sequencer, and what it dispatches."""
        sequencer, weights, activations, results = self._sequencer, self._weights, self._activations, self._results
        m.d.comb += [
            *(getattr(sequencer, port).eq(getattr(self, port)) for port in _PROGRAM_INPUTS),
            sequencer.start.eq(self.start & ~self._halt),
            sequencer.halt.eq(self._halt),
            sequencer.load_room.eq(weights.room),
            sequencer.run_room.eq(activations.room),
            sequencer.result_room.eq(results.room),
            sequencer.moved.eq(weights.idle & activations.idle & results.idle),
            weights.load.eq(sequencer.load),
            activations.run.eq(sequencer.run),
            results.run.eq(sequencer.run & sequencer.instruction[_LAST_K]),
            *(part.instruction.eq(sequencer.instruction) for part in (weights, activations, results)),
            *(part.halt.eq(self._halt) for part in (weights, activations)),
            *(getattr(self, port).eq(getattr(sequencer, port)) for port in ("running", "done", "position")),
        ]

    def _build_streams(self, m: Module) -> None:
        for name, part in (("weights", self._weights), ("activations", self._activations)):
            for port in ("data", "last", "valid"):
                m.d.comb += getattr(part, f"bus_{port}").eq(getattr(self, f"s_axis_{name}_t{port}"))
            m.d.comb += getattr(self, f"s_axis_{name}_tready").eq(part.bus_ready)
        for port in ("data", "keep", "last", "valid"):
            m.d.comb += getattr(self, f"m_axis_results_t{port}").eq(getattr(self._results, f"bus_{port}"))
        m.d.comb += self._results.bus_ready.eq(self.m_axis_results_tready)

    def _build_macros(self, m: Module, platform: object) -> list[Value]:
        """The macros; returns their sticky errors."""
        weights, activations, results = self._weights, self._activations, self._results
        placed = []
        for index in range(self.config.macros):
            inputs = {
                "load__payload": weights.load_payload,
                "load__valid": weights.load_valid[index],
                "weights__payload": weights.weights_payload,
                "weights__valid": weights.weights_valid[index],
                "run__payload": activations.run_payload,
                "run__valid": activations.run_valid[index],
                "activations__payload": activations.activations_payload,
                "activations__valid": activations.activations_valid[index],
                "results__ready": results.results_ready[index],
            }
            macro = place(m, platform, f"macro_{index}", "macro", lambda: Macro(self.config.macro), inputs)
            m.d.comb += [
                weights.load_ready[index].eq(macro["load__ready"]),
                weights.weights_ready[index].eq(macro["weights__ready"]),
                activations.run_ready[index].eq(macro["run__ready"]),
                activations.activations_ready[index].eq(macro["activations__ready"]),
                results.results_valid[index].eq(macro["results__valid"]),
            ]
            placed.append(macro)
        m.d.comb += results.results_payload.eq(Cat(Value.cast(macro["results__payload"]) for macro in placed))
        return [macro["error"] for macro in placed]

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
        stalls = (self._weights.stalled, self._activations.stalled, self._results.stalled)
        for name, event in zip(COUNTERS, (Value.cast(1), *stalls), strict=True):
            counter = getattr(self, name)
            with m.If(self.start & ~self.running):
                m.d.sync += counter.eq(0)
            with m.Elif(self.running & ~self._halt & event):
                m.d.sync += counter.eq(counter + 1)


class Accelerator(wiring.Component):
    """The core behind its registers, with the names that its ports have in Verilog.

    Parameters
    ----------
    config : AcceleratorConfig
        The instance.

    Members
    -------
    s_axis_weights_*, s_axis_activations_*, m_axis_results_* : In, Out
        The AXI4-Streams.
    s_axil_* or wb_* : In, Out
        The registers' bus.
    irq : Out(1)
        Interrupt request, level.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(accelerator_members(config))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.registers = self._registers = RegisterFile(self.config)
        self._build_bus(m)
        self._build_core(m, platform)
        return m

    def _build_bus(self, m: Module) -> None:
        """The bridge between the bus and the registers."""
        bridge = Axi4LiteBridge() if self.config.register_bus == "axi4-lite" else WishboneBridge()
        m.submodules.bridge = bridge
        for name, member in _bus_ports(self.config).items():
            _connect(m, bridge, name, self, f"{register_prefix(self.config)}{name}", is_input=member.flow is In)
        for name, member in register_bus().items():
            _connect(m, self._registers, name, bridge, name, is_input=member.flow is In)

    def _build_core(self, m: Module, platform: object) -> None:
        """The core, and what of it the registers show and do."""
        registers = self._registers
        start = registers.control_start
        streams: Mapping[str, wiring.Member] = _streams(self.config)
        core = place(
            m,
            platform,
            "core",
            "core",
            lambda: AcceleratorCore(self.config),
            {
                **{name: getattr(self, name) for name, member in streams.items() if member.flow is In},
                "write": registers.program_data_written,
                "write_address": registers.program_address_word,
                "write_data": registers.program_data_word,
                "start": start,
                "entry": registers.program_entry_instruction,
            },
            reset=registers.control_reset,
        )
        done = Signal()
        with m.If(core["done"]):
            m.d.sync += done.eq(1)
        with m.If(start | registers.control_reset | registers.control_clear_done):
            m.d.sync += done.eq(0)
        failed = core["error"] != 0
        m.d.comb += [
            *(getattr(self, name).eq(core[name]) for name, member in streams.items() if member.flow is not In),
            registers.status_running.eq(core["running"]),
            registers.status_done.eq(done),
            registers.status_error.eq(failed),
            registers.error_kind.eq(core["error"]),
            registers.error_macro.eq(core["error_macro"]),
            registers.error_macro_kind.eq(core["error_macro_kind"]),
            registers.position_instruction.eq(core["position"]),
            *(getattr(registers, f"{name}_count").eq(core[name]) for name in COUNTERS),
            self.irq.eq((done & registers.interrupt_done) | (failed & registers.interrupt_error)),
        ]


def _connect(m: Module, inner: object, inner_port: str, outer: object, outer_port: str, *, is_input: bool) -> None:
    """Connect a port of an inner component, which is an input of it or an output."""
    inside, outside = getattr(inner, inner_port), getattr(outer, outer_port)
    m.d.comb += inside.eq(outside) if is_input else outside.eq(inside)
