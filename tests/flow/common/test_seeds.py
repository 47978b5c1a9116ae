"""Seeds and what they draw."""

from __future__ import annotations

import pytest
import torch

from flexcim_flow.common.seeds import SeedError, seeded

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
def test_a_seed_always_draws_the_same(seed):
    assert torch.equal(*(torch.rand(9, generator=seeded(seed)) for _ in range(2)))


@pytest.mark.parametrize("seed", [-1, 2**64, 99999999999999999999])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(SeedError, match=rf"^a seed must be between 0 and 18446744073709551615, not {seed}$"):
        seeded(seed)
