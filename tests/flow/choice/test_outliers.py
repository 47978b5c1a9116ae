"""Outliers and their locality, against brute force over all pairs."""

from __future__ import annotations

import itertools
import time

import pytest
import torch

from flexcim_flow.choice.outliers import find_outliers, locality, pair_distance_sum

pytestmark = pytest.mark.torch


def brute_force(positions: torch.Tensor) -> int:
    return sum(abs(a - b) for a, b in itertools.combinations(positions.tolist(), 2))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50, 200])
@pytest.mark.parametrize("limit", [200, 1 << 20, 1 << 40])
def test_pair_distances_equal_brute_force(count, limit):
    generator = torch.Generator().manual_seed(count)
    positions = torch.randint(limit, (count,), generator=generator).unique()
    assert pair_distance_sum(positions) == brute_force(positions)


def test_pair_distances_beyond_64_bits_are_exact():
    count, step = 3_000_000, 1 << 20
    # Of an arithmetic series: step * (k - 1) k (k + 1) / 6, here 4.7e24.
    assert pair_distance_sum(torch.arange(count) * step) == step * (count - 1) * count * (count + 1) // 6


def test_ten_million_positions_take_less_than_a_second():
    positions = torch.arange(10_000_000) * 97
    start = time.process_time()
    assert locality(positions) == pytest.approx(3 / (97 * 10_000_001), rel=1e-15)
    # Processor time, with room for a loaded computer.
    assert time.process_time() - start < 3


def test_locality_is_one_over_the_mean_distance():
    assert locality(torch.tensor([3, 4])) == 1.0
    assert locality(torch.tensor([0, 1, 11])) == 3 / (1 + 11 + 10)


def test_locality_needs_distinct_positions_in_order():
    with pytest.raises(ValueError, match="locality needs at least two positions, not 1"):
        locality(torch.tensor([5]))
    for positions in ([2, 1], [1, 1]):
        with pytest.raises(ValueError, match="locality needs distinct positions in ascending order"):
            locality(torch.tensor(positions))


def test_outliers_are_above_the_factor_times_the_mean_of_the_whole_block():
    first, second = torch.ones(2, 4), torch.ones(1, 2)
    first[1, 2], second[0, 1] = 21.0, 31.0
    # The mean is (8 + 52) / 10 = 6; the positions are 6 in the first layer and 8 + 1 in the second.
    found = find_outliers([first, second], factor=3)
    assert (found.count, found.total, found.share, found.locality) == (2, 10, 0.2, 1 / 3)
    # 'Above' is strict: 3.5 * 6 = 21 is no outlier.
    assert find_outliers([first, second], factor=3.5).count == 1


def test_a_block_with_fewer_than_two_outliers_has_no_locality():
    assert find_outliers([torch.ones(3, 3)]).locality == 0
    one = torch.ones(3, 3)
    one[0, 0] = 100
    assert (find_outliers([one]).count, find_outliers([one]).locality) == (1, 0)


def test_a_block_without_weights_is_refused():
    with pytest.raises(ValueError, match="outliers need at least one score"):
        find_outliers([])
