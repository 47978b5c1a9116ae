"""Memory macros: what is read of them, which one fits, and what large memories are carried on from."""

from __future__ import annotations

import pytest

from flexcim_hw.silicon.liberty import LibertyError
from flexcim_hw.silicon.memories import (
    SAMPLES,
    MemoryMacro,
    MemoryShape,
    Placement,
    extrapolated,
    is_large,
    place_memory,
    read_memories,
)
from tests.support.silicon import tiny_liberty

SINGLE = MemoryMacro("single", 256, 64, 1, 900.0)
DOUBLE = MemoryMacro("double", 64, 32, 2, 500.0)
DEEP = MemoryMacro("deep", 256, 32, 2, 960.0)

MACRO = """library(memories) {
cell(double) {
  area : 500;
  memory() { type : ram; address_width : 6; word_width : 32; }
  bus(A_DOUT) { memory_read() { address : A_ADDR; } }
  bus(B_DOUT) { memory_read() { address : B_ADDR; } }
}
cell(pad) { area : 3; }
}
"""


def test_macros_are_read(tmp_path):
    (tmp_path / "memories.lib").write_text(MACRO)
    assert read_memories([tmp_path / "memories.lib"]) == (DOUBLE,)
    assert read_memories([]) == ()


def test_a_file_without_macros_is_said(tmp_path):
    (tmp_path / "tiny.lib").write_text(tiny_liberty())
    with pytest.raises(LibertyError, match=r"tiny\.lib: holds no memory macro"):
        read_memories([tmp_path / "tiny.lib"])


def shape(depth, width, *, registered=True, read_ports=1):
    return MemoryShape(depth, width, read_ports, 1, registered)


@pytest.mark.parametrize(
    ("wanted", "placed"),
    [
        (shape(16, 32), Placement(DOUBLE, 1)),
        (shape(64, 33), Placement(DOUBLE, 2)),
        (shape(100, 32), Placement(DEEP, 1)),
        (shape(300, 64), Placement(DEEP, 4)),
    ],
)
def test_the_macros_of_least_area_are_taken(wanted, placed):
    assert place_memory(wanted, [SINGLE, DOUBLE, DEEP]) == placed
    assert placed.area == placed.count * placed.macro.area


@pytest.mark.parametrize(
    ("wanted", "macros", "why"),
    [
        (shape(16, 32), [], "no memory macros were given"),
        (shape(16, 32, registered=False), [DOUBLE], "it is read in the cycle of its address, which no macro can"),
        (shape(16, 32), [SINGLE], "it has 2 ports, the macros have at most 1"),
        (shape(16, 32, read_ports=2), [DOUBLE, SINGLE], "it has 3 ports, the macros have at most 2"),
    ],
)
def test_why_no_macro_fits_is_said(wanted, macros, why):
    assert place_memory(wanted, macros) == why


@pytest.mark.parametrize(
    ("one", "large"),
    [
        (shape(128, 16), False),
        (shape(64, 32), False),
        (shape(128, 17), True),
        (shape(1024, 512), True),
        (shape(1024, 512, registered=False), False),
        (shape(1024, 512, read_ports=2), False),
        (shape(64, 512), False),
    ],
)
def test_large_memories_are_those_that_a_macro_would_be_taken_for(one, large):
    assert is_large(one) is large


def test_an_area_is_carried_on_by_words_and_by_bits():
    """Exact for what has a part for each bit, each word, each column and each memory."""

    def area(depth, width):
        return 7.0 * depth * width + 5 * depth + 3 * width + 11

    assert extrapolated({place: area(*place) for place in SAMPLES}, shape(1000, 130)) == area(1000, 130)
