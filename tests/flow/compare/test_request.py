"""What a comparison is asked for: ways that mean something, and a text."""

from __future__ import annotations

import pytest

from flexcim_flow.common.options import Update
from flexcim_flow.compare.request import ComparisonError, ComparisonRequest, ways_of


def test_nothing_to_compare_is_refused():
    with pytest.raises(ComparisonError, match=r"^uniform lsq at 0\.5, seed 1 is asked for twice$"):
        ways_of(["uniform"], [Update.LSQ], None, [0.5], [1, 1])


def test_a_comparison_needs_a_text():
    ways = ways_of(["uniform"], [], None, [0.5], [0])
    with pytest.raises(ComparisonError, match=r"^a comparison needs a text to evaluate on$"):
        ComparisonRequest(model="model", calibration="text", ways=ways)
