"""The parts of a layer: where each begins, and the inputs and slots that its rows cover."""

from __future__ import annotations

import pytest

from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.packed.parts import Part, lay_out

CONFIG = MacroConfig()


def starts(patterns, inputs):
    return [(part.start, part.stop) for part in lay_out(CONFIG, inputs, list(map(Pattern.parse, patterns)), 1)]


def test_a_layer_of_one_part_begins_with_the_first_row():
    assert starts(["4:8"], 65) == [(0, 9)]


def test_a_rest_of_the_same_pattern_goes_on_in_the_next_row_and_another_begins_a_tile():
    assert CONFIG.rows == 32
    assert starts(["2:8", "2:8"], 200) == [(0, 13), (13, 26)]
    assert starts(["2:8", "4:8"], 200) == [(0, 13), (32, 57)]
    assert starts(["2:8", "4:8"], 512) == [(0, 32), (32, 96)]


@pytest.mark.parametrize(
    ("rows", "inputs"),
    [
        (range(5), range(0)),
        (range(8), range(32)),
        (range(7, 8), range(16, 32)),
        (range(8, 99), range(32, 70)),
        (range(10, 11), range(64, 70)),
        (range(11, 99), range(0)),
    ],
)
def test_the_inputs_that_rows_cover(rows, inputs):
    part = Part(Pattern(2, 8), inputs=70, window=16, start=6)
    assert part.stop == 11
    # Empty ranges are equal wherever they lie.
    assert part.span(rows) == inputs


def test_a_last_block_has_all_of_its_slots():
    part = Part(Pattern(2, 8), inputs=65, window=16, start=6)
    assert part.slots(4) == slice(24, 24 + 9 * 2)
