"""The distribution crossbar against its golden twin, in every mode and phase."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from flexcim.config.macro import PRESETS
from flexcim_hw.macro.distribution import Distribution, StartTable
from flexcim_hw.macro.sub_macro import max_phases
from flexcim_sim.golden.distribution import bases, lanes
from tests.support.simulation import CONFIGS, instance, latency, pack, trace, unpack

MENUS = {
    **CONFIGS,
    "one lane": instance("1:1 2:4 4:11", rows=2, columns=4, lanes=1, activation_port=8),
    "eight sub-macros": instance("8:9 4:7 2:8 1:2", sub_macros=8, rows=1, columns=2, lanes=5),
}


@pytest.mark.parametrize("config", MENUS.values(), ids=MENUS)
def test_lanes_are_the_golden_ones_one_slice_per_cycle(config):
    rng = np.random.default_rng(3)
    bits = config.bits_per_cycle
    stimulus, expected = [], []
    issues = [
        (mode, phase) for mode, (pattern, _) in enumerate(config.modes) for phase in range(config.phases(pattern))
    ]
    for mode, phase in [*issues, *(issues[index] for index in rng.permutation(len(issues)))]:
        pattern, groups = config.modes[mode]
        # What lies past the mode's own window must not come through.
        slices = rng.integers(0, 1 << bits, size=(config.rows, config.max_window), dtype=np.int32)
        stimulus.append({"slices": pack(slices, bits), "mode": mode, "phase": phase})
        window = slices[np.newaxis, :, : config.window(pattern, groups)]
        expected.append(pack(lanes(config, pattern, groups, phase, window)[0].transpose(1, 0, 2), bits))
    distribution = Distribution(config)
    seen = trace(distribution, stimulus, ["lanes"], extra=3)
    assert latency([word for (word,) in seen], expected, distribution.interval) == distribution.latency == 1


@pytest.mark.parametrize("config", [*MENUS.values(), *PRESETS.values()], ids=[*MENUS, *PRESETS])
def test_starts_are_the_golden_bases(config):
    table = StartTable(config)
    for (mode, (pattern, groups)), sub_macro in product(enumerate(config.modes), range(config.sub_macros)):
        assert table.start(mode, sub_macro) == bases(config, pattern, groups)[sub_macro]
        assert table.start(mode, sub_macro) in table.starts(sub_macro, pattern.max_offset)


def test_lanes_past_the_block_carry_nothing():
    config = MENUS["serial"]
    mode = config.modes.index((config.patterns[0], 1))
    ones = pack([1] * config.rows * config.max_window, 1)
    (_, (word,)) = trace(Distribution(config), [{"slices": ones, "mode": mode}], ["lanes"], extra=1)
    seen = np.reshape(unpack(word, 1, config.sub_macros * config.rows * config.lanes, signed=False), (-1, config.lanes))
    assert (seen[:, 0] == 1).all()
    assert (seen[:, 1:] == 0).all()


def test_phases_are_as_many_as_the_menu_needs():
    assert {name: max_phases(config) for name, config in MENUS.items()} == {
        "serial": 1,
        "two bits, wide windows": 4,
        "three lanes, parallel": 2,
        "half parallel, requantized": 2,
        "one sub-macro": 1,
        "one lane": 8,
        "eight sub-macros": 2,
    }
