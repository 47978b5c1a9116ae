"""The choice between the errors of one cycle."""

from __future__ import annotations

from itertools import product

import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from flexcim_hw.common.errors import lowest_error


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_lowest_kind_wins_and_none_is_none(count):
    m = Module()
    errors = [Signal(4) for _ in range(count)]
    lowest = Signal(4)
    m.d.comb += lowest.eq(lowest_error(errors))

    async def bench(ctx):
        for kinds in product((0, 1, 7, 8, 13), repeat=count):
            for error, kind in zip(errors, kinds, strict=True):
                ctx.set(error, kind)
            assert ctx.get(lowest) == min((kind for kind in kinds if kind), default=0)

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
