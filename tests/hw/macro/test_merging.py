"""The merging adder tree against its golden twin, at every tap."""

from __future__ import annotations

import numpy as np
import pytest

from flexcim_hw.macro.merging import MergingColumn, max_groups, merged_sum_bits
from flexcim_hw.macro.sub_macro import column_sum_bits
from flexcim_sim.golden.merging import taps
from tests.support.simulation import CONFIGS, instance, latency, pack, trace, unpack

MENUS = {
    **CONFIGS,
    "aggregated only": instance("4:8", rows=2, columns=4),
    "never disaggregated": instance("2:4 4:8", sub_macros=8, rows=2, columns=4),
    "sixteen": instance("1:1 16:18", sub_macros=16, rows=2, columns=1),
}


def groups_of(config):
    return sorted({groups for _, groups in config.modes})


@pytest.mark.parametrize("config", MENUS.values(), ids=MENUS)
def test_every_tap_is_the_exact_sum_of_its_sub_macros(config):
    rng = np.random.default_rng(0)
    bits, wide = column_sum_bits(config), merged_sum_bits(config)
    cycles = 60
    sums = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), size=(cycles, config.sub_macros, 1))
    sums[0], sums[1] = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    groups = rng.choice(groups_of(config), cycles)
    groups[:2] = 1

    stimulus = [
        {"sums": pack(values, bits), "groups": int(count).bit_length() - 1}
        for values, count in zip(sums, groups, strict=True)
    ]
    column = MergingColumn(config)
    seen = trace(column, stimulus, ["merged"], extra=3)
    # Those of groups past G mean nothing.
    results = [unpack(word, wide, max_groups(config)) for (word,) in seen]
    expected = [taps(config, sums)[count][cycle, :, 0].tolist() for cycle, count in enumerate(groups)]
    late = column.latency
    assert [result[: len(e)] for result, e in zip(results[late:], expected, strict=False)] == expected
    assert latency([result[0] for result in results], [e[0] for e in expected], column.interval) == late == 1


def test_as_many_results_as_the_menu_can_form_groups():
    found = {name: max_groups(config) for name, config in MENUS.items()}
    assert found == {
        "serial": 4,
        "two bits, wide windows": 4,
        "three lanes, parallel": 2,
        "half parallel, requantized": 4,
        "one sub-macro": 1,
        "aggregated only": 1,
        "never disaggregated": 4,
        "sixteen": 16,
    }
