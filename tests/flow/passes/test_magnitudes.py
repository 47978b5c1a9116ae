"""Percentiles from a histogram against those of all numbers by torch."""

from __future__ import annotations

import math

import pytest
import torch

from flexcim_flow.passes.magnitudes import RESOLUTION, Magnitudes

pytestmark = pytest.mark.torch

GENERATOR = torch.Generator().manual_seed(0)
NORMAL = torch.randn(30, 7, 50, generator=GENERATOR)
KINDS = {
    "normal": NORMAL,
    "heavy tails": torch.empty(10001).cauchy_(generator=GENERATOR),
    "tiny": NORMAL * 1e-42,  # not normal float32 numbers
    "huge": NORMAL * 1e37,
    "integers": (NORMAL * 3).round(),
    "zeros": torch.zeros(5),
    "one": torch.tensor([-2.5]),
}


@pytest.mark.parametrize("values", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("percent", [0.01, 50, 99, 99.9, 99.99, 100])
def test_percentiles_are_those_of_torch_within_the_resolution(values, percent):
    seen = Magnitudes()
    for part in values.flatten().split(997):
        seen.add(part)
    exact = torch.quantile(values.abs().flatten().double(), percent / 100, interpolation="higher").item()
    found = seen.percentile(percent)
    # Below the smallest normal number, bins have a width of their own.
    assert exact <= found <= exact * (1 + RESOLUTION) + 2.0**-135
    if percent == 100:
        assert found == values.abs().max().item()


def test_half_precision_counts_as_float32():
    one, other = Magnitudes(), Magnitudes()
    one.add(NORMAL.to(torch.bfloat16))
    other.add(NORMAL.to(torch.bfloat16).float())
    assert one.percentile(99) == other.percentile(99)
    assert torch.equal(one.counts, other.counts)


def test_nothing_seen_and_what_is_no_number():
    seen = Magnitudes()
    seen.add(torch.zeros(0, 3))
    assert seen.percentile(99.9) == seen.percentile(100) == 0.0
    seen.add(torch.tensor([1.0, torch.nan]))
    seen.add(torch.tensor([1.0]))
    assert math.isnan(seen.percentile(100))
