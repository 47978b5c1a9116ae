"""A small comparison: what it needs, and what the command writes."""

from __future__ import annotations

import pytest

from flexcim.cli import main
from tests.support.comparisons import comparison_inputs, words


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """A model, a text to calibrate on, one to measure on, and questions."""
    return comparison_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="session")
def written(inputs, tmp_path_factory):
    """What the command writes."""
    output = tmp_path_factory.mktemp("out") / "comparison"
    chosen = ("--methods", "uniform,paper", "--updates", "none,lsq", "--sparsities", "0.5,0.25", "--seeds", "3")
    assert main(words(inputs, output, *chosen)) == 0
    return output
