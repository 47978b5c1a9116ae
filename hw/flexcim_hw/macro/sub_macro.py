"""Block 3, the sub-macro: R x C cells of several banks, and an adder tree under each column."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from flexcim.config.macro import MacroConfig
from flexcim_hw.common.shared_modules import index_shape, place_array

__all__ = ["Column", "SubMacro", "adder_tree", "column_sum_bits"]


def column_sum_bits(config: MacroConfig) -> int:
    """Bits of a column's signed sum: R products of a W-bit weight and a slice of at most 2^b - 1 in magnitude."""
    largest = config.rows << (config.weight_bits - 1)
    return (largest * ((1 << config.bits_per_cycle) - 1)).bit_length() + 1


def adder_tree(terms: Sequence[Value]) -> Value:
    """The exact sum of the terms, as a balanced tree of two-input adders."""
    while len(terms) > 1:
        pairs = [left + right for left, right in zip(terms[::2], terms[1::2], strict=False)]
        terms = pairs + ([terms[-1]] if len(terms) % 2 else [])
    return terms[0]


def _select(words: Value, width: int, index: Value) -> Value:
    """Word ``index`` of the words, by a tree of two-way muxes.

    A variable shift would do the same, but of an unknown index it makes an unknown word even where all words are
    zero. Cells that were never loaded hold such indices in a 4-state simulation.
    """
    for bit in reversed(index):
        half = width << len(index) - 1
        if len(words) > half:
            words = Mux(bit, words[half:], words[:half])
        index = index[:-1]
    return words


class Column(wiring.Component):
    """R cells of B banks, and the adder tree that sums their products.

    Latency is one cycle (`latency`), and it takes a slice each cycle (`interval`). A write is seen by the
    cycle after it.

    Parameters
    ----------
    config : MacroConfig
        The instance.

    Members
    -------
    lanes : In(R * L * b)
        Lane l of row r at bit (r * L + l) * b.
    phase : In(index_shape(T))
        The phase that the lanes carry.
    negative_msb : In(1)
        Whether the slice is a vector's first, a signed b-bit number; the others are unsigned.
    bank : In(index_shape(B))
        The bank that computes.
    write, write_row, write_bank, write_cell : In
        Enable, row, bank, and the cell (weight low, offset above).
    sum : Out(signed)
        The exact signed sum of the row's products.
    """

    latency = 1
    interval = 1

    def __init__(self, config: MacroConfig) -> None:
        self._config = config
        super().__init__(
            {
                "lanes": In(config.rows * config.lanes * config.bits_per_cycle),
                "phase": In(index_shape(max_phases(config))),
                "negative_msb": In(1),
                "bank": In(index_shape(config.banks)),
                "write": In(1),
                "write_row": In(index_shape(config.rows)),
                "write_bank": In(index_shape(config.banks)),
                "write_cell": In(config.cell_bits),
                "sum": Out(signed(column_sum_bits(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cells = self._build_storage(m)
        products = [self._build_cell(m, row, cell) for row, cell in enumerate(cells)]
        total = adder_tree(products)
        if self._config.bits_per_cycle == 1:
            # A signed one-bit slice is 0 or -1: one negation below the tree replaces a signed product in every cell.
            m.d.sync += self.sum.eq(Mux(self.negative_msb, -total, total))
        else:
            m.d.sync += self.sum.eq(total)
        return m

    def _build_storage(self, m: Module) -> list[Value]:
        """The cells of all banks as one memory, each row of which reads the bank that computes.

        A read address is a constant but for its bank, so what is left of the memory in a netlist is a flip-flop (or
        latch) for each bit and a mux between the banks.
        """
        config = self._config
        row_bits = ceil_log2(config.rows)
        m.submodules.storage = storage = Memory(
            shape=unsigned(config.cell_bits), depth=config.banks << row_bits, init=[]
        )
        write = storage.write_port()
        m.d.comb += [
            write.en.eq(self.write),
            write.addr.eq(Cat(self.write_row[:row_bits], self.write_bank)),
            write.data.eq(self.write_cell),
        ]
        cells: list[Value] = []
        for row in range(config.rows):
            read = storage.read_port(domain="comb")
            m.d.comb += read.addr.eq(Cat(C(row, row_bits), self.bank))
            cells.append(read.data)
        return cells

    def _build_cell(self, m: Module, row: int, cell: Value) -> Value:
        """Lane selection and product of one cell."""
        config = self._config
        weight = Signal(signed(config.weight_bits), name=f"weight_{row}")
        m.d.comb += weight.eq(cell[: config.weight_bits])

        activation = Signal(config.bits_per_cycle, name=f"activation_{row}")
        m.d.comb += activation.eq(self._select_lane(m, row, cell[config.weight_bits :]))
        product = Signal(signed(config.weight_bits + config.bits_per_cycle), name=f"product_{row}")
        m.d.comb += product.eq(self._multiply(weight, activation))
        return product

    def _select_lane(self, m: Module, row: int, offset: Value) -> Value:
        """Lane o mod L in phase o div L, otherwise 0."""
        config = self._config
        width = config.lanes * config.bits_per_cycle
        lanes = self.lanes.word_select(row, width)
        phases = max_phases(config)
        if config.lanes & (config.lanes - 1) == 0:
            lane_bits = (config.lanes - 1).bit_length()
            lane, phase = offset[:lane_bits], offset[lane_bits:]
        else:
            lane, phase = offset, C(0, len(offset))
            for candidate in range(1, -(-(1 << config.index_bits) // config.lanes)):
                reached = offset >= candidate * config.lanes
                lane = Mux(reached, offset - candidate * config.lanes, lane)
                phase = Mux(reached, candidate, phase)
            lane = lane[: (config.lanes - 1).bit_length()]
        chosen = _select(lanes, config.bits_per_cycle, lane)
        return Mux(phase == self.phase, chosen, 0) if len(phase) or phases > 1 else chosen

    def _multiply(self, weight: Value, activation: Value) -> Value:
        if self._config.bits_per_cycle == 1:
            return Mux(activation[0], weight, 0)
        factor = Cat(activation, activation[-1] & self.negative_msb).as_signed()
        # The explicit zero keeps a never-loaded cell's unknown weight out of the sum in a 4-state simulation.
        return Mux(activation.any(), weight * factor, 0)


def max_phases(config: MacroConfig) -> int:
    """The most phases that a pattern of the menu takes."""
    return max(map(config.phases, config.patterns))


class SubMacro(wiring.Component):
    """C columns that share their lanes.

    Latency is one cycle (`latency`), and it takes a slice each cycle (`interval`).

    Parameters
    ----------
    config : MacroConfig
        The instance.

    Members
    -------
    lanes, phase, negative_msb, bank, write_row, write_bank : In
        As in `Column`, shared by all columns.
    write : In(C // min(q, C))
        An enable for each run of columns that one weight beat fills.
    write_cells : In(min(q, C) * cell_bits)
        The cells of such a run.
    sums : Out(C * column_sum_bits)
        The columns' signed sums, column 0 lowest.
    """

    latency = Column.latency
    interval = Column.interval

    def __init__(self, config: MacroConfig) -> None:
        self._config = config
        self._run = min(config.weight_port, config.columns)
        super().__init__(
            {
                "lanes": In(config.rows * config.lanes * config.bits_per_cycle),
                "phase": In(index_shape(max_phases(config))),
                "negative_msb": In(1),
                "bank": In(index_shape(config.banks)),
                "write": In(config.columns // self._run),
                "write_row": In(index_shape(config.rows)),
                "write_bank": In(index_shape(config.banks)),
                "write_cells": In(self._run * config.cell_bits),
                "sums": Out(unsigned(config.columns * column_sum_bits(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        shared = ("lanes", "phase", "negative_msb", "bank", "write_row", "write_bank")
        inputs: dict[str, Value] = {port: getattr(self, port) for port in shared}
        inputs["write"] = Cat(enable.replicate(self._run) for enable in self.write)
        inputs["write_cell"] = self.write_cells.replicate(config.columns // self._run)
        columns = place_array(m, platform, "column", "column", lambda: Column(config), config.columns, inputs)
        m.d.comb += self.sums.eq(columns["sum"])
        return m
