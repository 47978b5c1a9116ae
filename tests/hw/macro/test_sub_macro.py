"""The columns and the sub-macro against their golden twin."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.sim import Simulator

from flexcim_hw.macro.sub_macro import Column, SubMacro, adder_tree, column_sum_bits, max_phases
from flexcim_sim.golden.sub_macro import column_sums
from tests.support.simulation import CONFIGS, instance, latency, pack, trace, unpack

for_each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


class Cells:
    """Random contents of all banks of a sub-macro, weights and offsets [bank, R, C], extremes among them."""

    def __init__(self, config, rng):
        shape = config.banks, config.rows, config.columns
        limit = 1 << (config.weight_bits - 1)
        self.config = config
        self.weights = rng.integers(-limit, limit, size=shape, dtype=np.int8)
        self.weights[rng.random(shape) < 0.2] = -limit
        self.offsets = rng.integers(0, 1 << config.index_bits, size=shape, dtype=np.uint8)

    @property
    def words(self):
        """Cells as the weight port has them: weight low, offset above."""
        mask = (1 << self.config.weight_bits) - 1
        return (self.weights.astype(int) & mask) | self.offsets.astype(int) << self.config.weight_bits

    def writes(self, banks):
        """The cycles that write these banks of a sub-macro."""
        run = min(self.config.weight_port, self.config.columns)
        for bank in banks:
            for row in range(self.config.rows):
                for index, first in enumerate(range(0, self.config.columns, run)):
                    cells = pack(self.words[bank, row, first : first + run], self.config.cell_bits)
                    yield {"write": 1 << index, "write_row": row, "write_bank": bank, "write_cells": cells}
        yield {"write": 0}


def random_slices(config, rng, count):
    """Cycles of slices: inputs of the ports, and for each the sums' activations [R, L] with their sign."""
    limit = 1 << config.bits_per_cycle
    for _ in range(count):
        lanes = rng.integers(0, limit, size=(config.rows, config.lanes))
        lanes[rng.random(lanes.shape) < 0.2] = limit - 1
        first = int(rng.integers(2))
        values = np.where(lanes >= limit // 2, lanes - limit, lanes) if first else lanes
        ports = {
            "lanes": pack(lanes, config.bits_per_cycle),
            "phase": int(rng.integers(max_phases(config))),
            "negative_msb": first,
            "bank": int(rng.integers(config.banks)),
        }
        yield ports, values


def sums_of(config, cells, ports, values):
    """The golden column sums of one cycle."""
    lanes = np.zeros((1, config.rows, config.sub_macros, config.lanes), np.int32)
    lanes[0, :, 0] = values
    shape = config.rows, config.sub_macros, config.columns
    weights, offsets = np.zeros(shape, np.int8), np.zeros(shape, np.uint8)
    weights[:, 0], offsets[:, 0] = cells.weights[ports["bank"]], cells.offsets[ports["bank"]]
    return column_sums(config, ports["phase"], lanes, weights, offsets)[0, 0].tolist()


@for_each_config
def test_sums_are_the_golden_ones_one_slice_per_cycle(config):
    rng = np.random.default_rng(1)
    cells = Cells(config, rng)
    writes = list(cells.writes(range(config.banks)))
    slices = list(random_slices(config, rng, 80))
    sub_macro = SubMacro(config)
    seen = trace(sub_macro, [*writes, *(ports for ports, _ in slices)], ["sums"], extra=3)
    sums = [unpack(word, column_sum_bits(config), config.columns) for (word,) in seen[len(writes) :]]
    expected = [sums_of(config, cells, *cycle) for cycle in slices]
    assert latency(sums, expected, sub_macro.interval) == sub_macro.latency == 1


@pytest.mark.parametrize("name", ["serial", "two bits, wide windows", "half parallel, requantized"])
def test_a_bank_computes_while_another_is_written(name):
    config = CONFIGS[name]
    rng = np.random.default_rng(2)
    before, after = Cells(config, rng), Cells(config, rng)
    writes = [*before.writes(range(config.banks))]
    second = [write for bank in range(1, config.banks) for write in after.writes([bank])]
    slices = [(ports | {"bank": 0}, values) for ports, values in random_slices(config, rng, len(second))]
    both = [write | ports for write, (ports, _) in zip(second, slices, strict=True)]
    check = [(ports | {"bank": 1}, values) for ports, values in random_slices(config, rng, 10)]
    seen = trace(SubMacro(config), [*writes, *both, *(ports for ports, _ in check)], ["sums"], extra=1)
    sums = [unpack(word, column_sum_bits(config), config.columns) for (word,) in seen[len(writes) + 1 :]]
    assert sums == [sums_of(config, before, *cycle) for cycle in slices] + [
        sums_of(config, after, *cycle) for cycle in check
    ]


def test_a_write_is_seen_by_the_next_cycle():
    config = CONFIGS["three lanes, parallel"]
    seen_by_cycle = trace(
        Column(config),
        [
            {"lanes": pack([1] * config.rows * config.lanes, config.bits_per_cycle), "write": 1, "write_cell": 3},
            {"write_cell": 5},
            {"write": 0, "write_cell": 7},
        ],
        ["sum"],
        extra=2,
    )
    assert [value for (value,) in seen_by_cycle] == [0, 0, 3, 5, 5]


@for_each_config
@pytest.mark.parametrize("first", [False, True])
def test_the_extremes_fit_the_sum(config, first):
    largest = (1 << config.bits_per_cycle) - 1
    slice_ = 1 << (config.bits_per_cycle - 1) if first else largest
    value = slice_ - (1 << config.bits_per_cycle) if first else slice_
    for weight in (-(1 << (config.weight_bits - 1)), (1 << (config.weight_bits - 1)) - 1):
        cell = weight & ((1 << config.weight_bits) - 1)
        writes = [{"write": 1, "write_row": row, "write_cell": cell} for row in range(config.rows)]
        issue = {
            "write": 0,
            "lanes": pack([slice_] * config.rows * config.lanes, config.bits_per_cycle),
            "negative_msb": int(first),
        }
        seen = trace(Column(config), [*writes, issue], ["sum"], extra=2)
        assert seen[-1] == (config.rows * weight * value,)


def test_the_sum_has_no_bit_too_many():
    largest = {name: config.rows << (config.weight_bits - 1) for name, config in CONFIGS.items()}
    for name, config in CONFIGS.items():
        reach = largest[name] * ((1 << config.bits_per_cycle) - 1)
        bits = column_sum_bits(config)
        assert -(1 << (bits - 1)) <= -reach < reach < 1 << (bits - 1), name
        assert reach >= 1 << (bits - 2), name


@pytest.mark.parametrize("count", range(1, 10))
def test_an_adder_tree_is_exact_for_any_number_of_terms(count):
    m = Module()
    terms = [Signal(signed(4), name=f"term_{index}") for index in range(count)]
    total = Signal(signed(9))
    m.d.comb += total.eq(adder_tree(terms))

    async def bench(ctx, value):
        for term in terms:
            ctx.set(term, value)
        assert ctx.get(total) == count * value

    for value in (-8, 7, 3):
        simulator = Simulator(m)
        simulator.add_testbench(partial(bench, value=value))
        simulator.run()


def test_a_cell_ignores_lanes_and_phases_that_its_offset_does_not_name():
    config = instance("1:1 4:8 1:8", rows=1, columns=4, lanes=3, index_bits=3, bits_per_cycle=8, activation_port=8)
    assert max_phases(config) == 3
    stimulus: list[dict[str, int]] = []
    expected: list[int | None] = []
    lanes = [11, 22, 33]
    for offset in range(8):
        stimulus.append({"write": 1, "write_cell": 1 | offset << 8, "lanes": pack(lanes, 8)})
        expected.append(None)
        for phase in range(3):
            stimulus.append({"write": 0, "phase": phase})
            expected.append(lanes[offset % 3] if phase == offset // 3 else 0)
    column = Column(config)
    seen = trace(column, stimulus, ["sum"], extra=1)
    pairs = zip(seen[column.latency :], expected, strict=True)
    assert [(got, want) for (got,), want in pairs if want is not None and got != want] == []
