"""Named values, shifters and delay lines."""

from __future__ import annotations

import pytest
from amaranth.hdl import Module, ResetInserter, Signal, signed
from amaranth.sim import Simulator

from flexcim_hw.common.signals import delay, named, shift_left, shift_right


def run(m, bench):
    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_a_named_value_is_a_signal_of_that_name_with_the_value():
    m = Module()
    operand = Signal(signed(5))
    total = named(m, "total", operand - 1)
    m.d.sync += Signal().eq(0)
    assert total.name == "total"
    assert total.shape() == signed(6)

    async def bench(ctx):
        for value in (-16, 0, 15):
            ctx.set(operand, value)
            assert ctx.get(total) == value - 1

    run(m, bench)


@pytest.mark.parametrize("cycles", [0, 1, 3])
def test_a_delayed_signal_is_what_it_was(cycles):
    m = Module()
    source = Signal(8, name="source")
    late = delay(m, source, cycles)
    m.d.sync += Signal().eq(0)
    assert (late is source) == (cycles == 0)
    seen = []

    async def bench(ctx):
        for value in range(1, 20):
            ctx.set(source, value)
            seen.append(ctx.get(late))
            await ctx.tick()

    run(m, bench)
    assert seen[cycles:] == list(range(1, 20 - cycles))


@pytest.mark.parametrize("reset_less", [True, False])
def test_a_reset_clears_strobes_and_leaves_data(reset_less):
    m = Module()
    source, reset = Signal(name="source"), Signal()
    late = delay(m, source, 2, reset_less=reset_less)
    seen = []

    async def bench(ctx):
        ctx.set(source, 1)
        await ctx.tick()
        ctx.set(source, 0)
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        seen.append(ctx.get(late))

    run(ResetInserter(reset)(m), bench)
    assert seen == [int(reset_less)]


@pytest.mark.parametrize(("unit", "places", "width"), [(1, 4, 13), (8, 3, 40), (4, 5, 90)])
def test_a_shift_in_steps_is_a_shift(unit, places, width):
    m = Module()
    value, by = Signal(20), Signal(places)
    left, right = shift_left(m, "left", value, by, unit, width), shift_right(m, "right", value, by, unit)
    m.d.sync += Signal().eq(0)
    assert (len(left), len(right)) == (width, 20)

    async def bench(ctx):
        ctx.set(value, 0b1001_0110_0000_1111_0101)
        for count in range(1 << places):
            ctx.set(by, count)
            assert ctx.get(left) == (ctx.get(value) << count * unit) & ((1 << width) - 1)
            assert ctx.get(right) == ctx.get(value) >> count * unit

    run(m, bench)
