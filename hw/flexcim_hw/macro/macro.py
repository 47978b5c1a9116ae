"""The macro: all blocks joined in the order data flows."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.macro.cycles import PIPELINE_CYCLES, requantizer_cycles, vector_cycles
from flexcim_hw.common.errors import lowest_error
from flexcim_hw.common.ports import (
    LOAD_LAYOUT,
    RUN_LAYOUT,
    activation_layout,
    constant_layout,
    result_layout,
    weight_layout,
)
from flexcim_hw.common.shared_modules import place, place_array
from flexcim_hw.common.signals import delay, named
from flexcim_hw.macro.accumulator import Accumulator
from flexcim_hw.macro.activation_buffer import ActivationBuffer
from flexcim_hw.macro.distribution import Distribution
from flexcim_hw.macro.merging import MergingColumn
from flexcim_hw.macro.requantizer import Requantizer
from flexcim_hw.macro.result_buffer import ResultBuffer
from flexcim_hw.macro.sequencer import Sequencer
from flexcim_hw.macro.sub_macro import SubMacro, column_sum_bits
from flexcim_hw.macro.weight_loader import WeightLoader

__all__ = ["Macro"]


class Macro(wiring.Component):
    """S sub-macros of R x C cells behind elastic streams (docs/architecture.md, section 3).

    A vector that starts in cycle s is issued in s + 1 ... s + N, N = T * A / b; its first result beat is there in cycle
    s + N + `latency`. In the steady state a vector costs max(N, its activation beats, its result beats) cycles
    (`interval`).

    Parameters
    ----------
    config : MacroConfig
        The instance.

    Members
    -------
    load, run : In(stream)
        Commands: fill a bank; multiply vectors by the tile in a bank.
    weights, activations : In(stream)
        A tile's cells; vectors' elements.
    constants : In(stream)
        The requantizer's constants; only when it is built.
    results : Out(stream)
        Sums, or requantized elements, by vector and output.
    error : Out(4)
        `flexcim.macro.commands.ErrorKind`, sticky until reset.
    """

    def __init__(self, config: MacroConfig) -> None:
        self.config = config
        members = {
            "load": In(stream.Signature(LOAD_LAYOUT)),
            "run": In(stream.Signature(RUN_LAYOUT)),
            "weights": In(stream.Signature(weight_layout(config))),
            "activations": In(stream.Signature(activation_layout(config))),
            "results": Out(stream.Signature(result_layout(config))),
            "error": Out(4),
        }
        if config.requantizer:
            members["constants"] = In(stream.Signature(constant_layout(config)))
        super().__init__(members)

    @property
    def latency(self) -> int:
        """Cycles from a vector's last issue cycle to its first result beat."""
        return PIPELINE_CYCLES + requantizer_cycles(self.config)

    def interval(self, pattern: Pattern, groups: int, rows: int, *, emits: bool) -> int:
        """Cycles from a vector to the next in the steady state; ``emits``: the run is its layer's last K tile."""
        return vector_cycles(self.config, pattern, groups, rows, emits=emits)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.sequencer = self._sequencer = Sequencer(self.config)
        m.submodules.weight_loader = self._loader = WeightLoader(self.config)
        self._build_control(m)
        slices = self._build_activation_buffer(m, platform)
        lanes = self._build_distribution(m, platform, slices)
        sums = self._build_sub_macros(m, platform, lanes)
        merged = self._build_merging(m, platform, sums)
        totals = self._build_accumulator(m, platform, merged)
        self._build_results(m, platform, totals)
        return m

    def _build_control(self, m: Module) -> None:
        """Commands to their executors, the banks' states between them, and the sticky error."""
        sequencer, loader = self._sequencer, self._loader
        for port, executor in (("load", loader), ("weights", loader), ("run", sequencer), ("activations", sequencer)):
            wiring.connect(m, wiring.flipped(getattr(self, port)), getattr(executor, port))
        if self.config.requantizer:
            wiring.connect(m, wiring.flipped(self.constants), loader.constants)
        halt = named(m, "halt", self.error != 0)
        m.d.comb += [
            sequencer.halt.eq(halt),
            loader.halt.eq(halt),
            loader.free.eq(sequencer.free),
            loader.settled.eq(sequencer.settled),
            sequencer.bank_done.eq(loader.done),
            sequencer.bank_rows.eq(loader.rows),
            sequencer.bank_has_constants.eq(loader.has_constants),
        ]
        with m.If(~halt):
            m.d.sync += self.error.eq(lowest_error([loader.error, sequencer.error]))

    def _build_activation_buffer(self, m: Module, platform: object) -> Value:
        sequencer = self._sequencer
        buffer = place(
            m,
            platform,
            "activation_buffer",
            "activation_buffer",
            lambda: ActivationBuffer(self.config),
            {
                "beat": self.activations.payload.elements,
                "write": sequencer.fill_write,
                "window_code": sequencer.fill_window_code,
                "first_row": sequencer.fill_first_row,
                "window_beat": sequencer.fill_window_beat,
                "start": sequencer.start,
                "shift": sequencer.shift,
                "active": sequencer.active_rows,
            },
        )
        return buffer["slices"]

    def _build_distribution(self, m: Module, platform: object, slices: Value) -> Value:
        sequencer = self._sequencer
        distribution = place(
            m,
            platform,
            "distribution",
            "distribution",
            lambda: Distribution(self.config),
            {"slices": slices, "mode": sequencer.vector.mode, "phase": sequencer.phase},
        )
        return distribution["lanes"]

    def _build_sub_macros(self, m: Module, platform: object, lanes: Value) -> list[Value]:
        """The sub-macros; their inputs are what was issued one cycle ago."""
        config, sequencer, loader = self.config, self._sequencer, self._loader
        shared = {
            "phase": delay(m, named(m, "issue_phase", sequencer.phase), Distribution.latency),
            "negative_msb": delay(m, named(m, "issue_first_slice", sequencer.first_slice), Distribution.latency),
            "bank": delay(m, named(m, "issue_bank", sequencer.vector.bank), Distribution.latency),
            "write_row": loader.write_row,
            "write_bank": loader.write_bank,
        }
        runs = config.columns // min(config.weight_port, config.columns)
        cells = min(config.weight_port, config.columns) * config.cell_bits
        parallel = max(1, config.weight_port // config.columns)  # sub-macros that one beat fills
        sums = []
        for index in range(config.sub_macros):
            sub_macro = place(
                m,
                platform,
                f"sub_macro_{index}",
                "sub_macro",
                lambda: SubMacro(config),
                {
                    "lanes": lanes.word_select(index, config.rows * config.lanes * config.bits_per_cycle),
                    "write": loader.write.word_select(index, runs),
                    "write_cells": loader.write_cells.word_select(index % parallel, cells),
                    **shared,
                },
            )
            sums.append(sub_macro["sums"])
        return sums

    def _build_merging(self, m: Module, platform: object, sums: list[Value]) -> Value:
        config = self.config
        groups = named(m, "issue_groups", self._sequencer.vector.groups)
        self._groups = delay(m, groups, Distribution.latency + SubMacro.latency)
        width = column_sum_bits(config)
        inputs = {
            "sums": Cat(sums_.word_select(column, width) for column in range(config.columns) for sums_ in sums),
            "groups": self._groups,
        }
        trees = place_array(
            m, platform, "merging", "merging_column", lambda: MergingColumn(config), config.columns, inputs
        )
        return trees["merged"]

    def _build_accumulator(self, m: Module, platform: object, merged: Value) -> Value:
        sequencer, vector = self._sequencer, self._sequencer.vector
        stages = Distribution.latency + SubMacro.latency + MergingColumn.latency
        self._done = delay(m, named(m, "issue_done", sequencer.done), stages, reset_less=False)
        self._last_k = delay(m, named(m, "issue_last_k", vector.last_k), stages)
        self._groups = delay(m, self._groups, MergingColumn.latency)
        clear = named(m, "issue_clear", sequencer.first_slice & sequencer.first_phase)
        accumulator = place(
            m,
            platform,
            "accumulator",
            "accumulator",
            lambda: Accumulator(self.config),
            {
                "merged": merged,
                "clear": delay(m, clear, stages),
                "shift": delay(m, named(m, "issue_shift", sequencer.first_phase), stages),
                "done": self._done,
                "groups": self._groups,
                "slot": delay(m, named(m, "issue_slot", vector.slot), stages),
                "first_k": delay(m, named(m, "issue_first_k", vector.first_k), stages),
                "last_k": self._last_k,
            },
        )
        return accumulator["totals"]

    def _build_results(self, m: Module, platform: object, totals: Value) -> None:
        """The result buffer, and the requantizer if it is built."""
        config, sequencer, vector = self.config, self._sequencer, self._sequencer.vector
        leaves = Signal()
        m.d.comb += leaves.eq(self._done & self._last_k)
        stages = Distribution.latency + SubMacro.latency + MergingColumn.latency + Accumulator.latency
        tag = named(m, "issue_tag", Cat(vector.requantize, vector.bank))
        results, ready = self.results, Signal()
        buffer = place(
            m,
            platform,
            "result_buffer",
            "result_buffer",
            lambda: ResultBuffer(config),
            {
                "write": delay(m, leaves, Accumulator.latency, reset_less=False),
                "results": totals,
                "tag": delay(m, tag, stages),
                "groups": delay(m, self._groups, Accumulator.latency),
                "ready": ready,
            },
        )
        m.d.comb += sequencer.entry_freed.eq(buffer["freed"])
        if not config.requantizer:
            m.d.comb += [
                results.payload.elements.eq(buffer["elements"]),
                results.payload.last.eq(buffer["last"]),
                results.valid.eq(buffer["valid"]),
                ready.eq(results.ready),
            ]
            return

        enable, bank = buffer["beat_tag"][0], buffer["beat_tag"][1:]
        loader = self._loader
        requantizer = place(
            m,
            platform,
            "requantizer",
            "requantizer",
            lambda: Requantizer(config),
            {
                "write": loader.write_constants,
                "write_bank": loader.constants_bank,
                "write_beat": loader.constants_beat,
                "write_constants": loader.constants_data,
                "elements": buffer["elements"],
                "last": buffer["last"],
                "beat": buffer["beat"],
                "bank": bank,
                "enable": enable,
                "valid": buffer["valid"],
                "out_ready": results.ready,
            },
        )
        m.d.comb += [
            ready.eq(requantizer["ready"]),
            sequencer.requantized_left.eq(
                Cat(buffer["freed"] & enable & (bank == index) for index in range(config.banks))
            ),
            results.payload.elements.eq(requantizer["out_elements"]),
            results.payload.last.eq(requantizer["out_last"]),
            results.valid.eq(requantizer["out_valid"]),
        ]
