"""The accumulator against its golden twin: slices and phases of a vector, then the K tiles of a layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from flexcim.config.macro import SUM_BITS
from flexcim_hw.macro.accumulator import Accumulator, AccumulatorColumn, SumMemory
from flexcim_hw.macro.merging import max_groups, merged_sum_bits
from flexcim_sim.golden.accumulator import SumMemory as GoldenSumMemory
from flexcim_sim.golden.accumulator import shift_add
from flexcim_sim.golden.distribution import slices
from tests.support.simulation import CONFIGS, instance, latency, pack, trace, unpack

MENUS = {
    **CONFIGS,
    "at most two groups": instance("2:4 4:8", rows=1, columns=4, accumulator_depth=4),
}
for_each_config = pytest.mark.parametrize("config", MENUS.values(), ids=MENUS)


@dataclass
class Run:
    """The vectors of one K tile: its place, and partial sums [V, A / b, T, G, C]."""

    groups: int
    first_k: bool
    last_k: bool
    partials: NDArray[np.int64]

    def cycles(self, config):
        """The inputs of each cycle, vectors without a gap."""
        for vector, partials in enumerate(self.partials):
            slices_, phases = partials.shape[:2]
            for slice_ in range(slices_):
                for phase in range(phases):
                    yield {
                        "merged": merged_port(config, partials[slice_, phase]),
                        "clear": int(slice_ == phase == 0),
                        "shift": int(phase == 0),
                        "done": int(slice_ == slices_ - 1 and phase == phases - 1),
                        "groups": self.groups.bit_length() - 1,
                        "slot": vector * self.groups % config.accumulator_depth,
                        "first_k": int(self.first_k),
                        "last_k": int(self.last_k),
                    }

    def sums(self, config):
        """The golden sums of each vector over this tile, [V, G, C]."""
        return np.array([shift_add(config, partials) for partials in self.partials])


def merged_port(config, partials):
    """The port's value for partial sums [G, C], groups past G being anything."""
    groups, bits = max_groups(config), merged_sum_bits(config)
    words = np.full((config.columns, groups), -1)
    words[:, : len(partials)] = partials.T
    return pack(words, bits)


def outputs(config, word):
    """The totals by output j = h * C + c; the port has the groups of each column side by side."""
    groups = max_groups(config)
    return np.reshape(unpack(word, SUM_BITS, config.columns * groups), (config.columns, groups)).T.ravel().tolist()


def random_partials(config, rng, groups, vectors, phases):
    """Partial sums that products of random weights and slices give, up to the largest that a tile can have."""
    cells = config.sub_macros * config.rows // groups
    high, low = 1 << (config.weight_bits - 1), 1 << (config.activation_bits - 1)
    weights = rng.integers(-high, high, size=(groups, config.columns, cells))
    activations = rng.integers(-low, low, size=(vectors, groups, 1, cells), dtype=np.int32)
    weights[0] = -high
    activations[0] = -low
    phase = rng.integers(phases, size=weights.shape)
    products = weights * slices(config, activations)
    return np.stack([(products * (phase == t)).sum(-1) for t in range(phases)]).transpose(2, 1, 0, 3, 4)


def random_layers(config, rng):
    """Runs of layers with one and several K tiles, at every number of groups, with few and as many vectors as fit."""
    phases = max(map(config.phases, config.patterns))
    for groups in sorted({groups for _, groups in config.modes}) * 2:
        fit = config.accumulator_depth // groups
        for k_tiles, vectors in ((1, fit + 2), (2, fit), (3, 1), (2, int(rng.integers(1, fit + 1)))):
            for k in range(k_tiles):
                partials = random_partials(config, rng, groups, vectors, int(rng.integers(1, phases + 1)))
                yield Run(groups, k == 0, k == k_tiles - 1, partials)


@for_each_config
def test_totals_are_the_golden_ones_one_partial_sum_per_cycle(config):
    rng = np.random.default_rng(7)
    runs = list(random_layers(config, rng))
    stimulus = [cycle for run in runs for cycle in run.cycles(config)]
    accumulator = Accumulator(config)
    assert accumulator.latency == AccumulatorColumn.latency == 1
    assert accumulator.interval == AccumulatorColumn.interval == 1
    seen = trace(accumulator, stimulus, ["totals"], extra=accumulator.latency)
    out = [word for (word,), cycle in zip(seen[accumulator.latency :], stimulus, strict=True) if cycle["done"]]

    memory = GoldenSumMemory(config)
    expected = [
        total
        for run in runs
        for total in memory.accumulate(run.sums(config), first_k=run.first_k, last_k=run.last_k).reshape(
            len(run.partials), -1
        )
    ]
    assert len(out) == len(expected)
    for word, total in zip(out, expected, strict=True):
        assert outputs(config, word)[: len(total)] == total.tolist()


@for_each_config
def test_pauses_between_vectors_change_nothing(config):
    rng = np.random.default_rng(8)
    groups = max_groups(config)
    vectors = config.accumulator_depth // groups
    runs = [Run(groups, k == 0, k == 2, random_partials(config, rng, groups, vectors, 1)) for k in range(3)]
    stimulus = []
    for run in runs:
        for cycle in run.cycles(config):
            noise = {"merged": merged_port(config, rng.integers(-2, 2, size=(groups, config.columns))), "done": 0}
            stimulus += [cycle, *[cycle | noise for _ in range(rng.integers(3) if cycle["done"] else 0)]]
    seen = trace(Accumulator(config), stimulus, ["totals"], extra=1)
    out = [word for (word,), cycle in zip(seen[1:], stimulus, strict=True) if cycle["done"] and cycle["last_k"]]
    total = sum(run.sums(config) for run in runs).reshape(vectors, -1)
    assert [outputs(config, word) for word in out] == total.tolist()


def test_a_columns_total_is_there_one_cycle_after_its_partial_sum():
    config = CONFIGS["three lanes, parallel"]
    rng = np.random.default_rng(9)
    groups, bits = max_groups(config), merged_sum_bits(config)
    # One slice to a vector and no K tile before: each partial sum is a total.
    partials = rng.integers(-(1 << (config.sum_bits - 2)), 1 << (config.sum_bits - 2), size=(30, groups))
    shared = {"clear": 1, "shift": 1, "first_k": 1}
    column = AccumulatorColumn(config)
    stimulus = [{"merged": pack(partial, bits)} | shared for partial in partials]
    seen = [word for (word,) in trace(column, stimulus, ["totals"], extra=2)]
    expected = [pack(total, SUM_BITS) for total in partials]
    assert latency(seen, expected, column.interval) == column.latency == 1


def test_the_memory_shows_in_the_cycle_of_the_read_what_is_written_with_it():
    config = MENUS["serial"]
    memory = SumMemory(config)
    words = list(range(1, 9))
    stimulus = [
        {"read_enable": 1, "read_slot": 4, "slot": 4, "write_enable": 1, "totals": pack([word], SUM_BITS)}
        for word in words
    ]
    seen = [unpack(word, SUM_BITS, 1)[0] for (word,) in trace(memory, stimulus, ["stored"], extra=1)]
    assert latency(seen, words, memory.interval) == memory.latency == 1
