"""The default instance against the dense one at full size, as RTL."""

import pytest

from scripts.benchmark_throughput import TARGETS, measurements


@pytest.mark.regression
def test_every_pattern_reaches_its_share_of_the_limit():
    measured = list(measurements(seed=0))
    assert {it.tiles for it in measured} == set(TARGETS)
    assert not [f"{it.pattern} on {it.tiles} tiles: {it.share:.2%}" for it in measured if not it.reached]
