"""What the tests of the hardware blocks share: a clocked simulation, the packing of ports, and small configurations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from amaranth.hdl import Value
from amaranth.lib import wiring
from amaranth.sim import Simulator
from numpy.typing import ArrayLike

from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern

__all__ = [
    "CONFIGS",
    "Sink",
    "Source",
    "exchange",
    "exchange_all",
    "instance",
    "latency",
    "pack",
    "simulate",
    "trace",
    "unpack",
]


def instance(menu: str, **parameters: Any) -> MacroConfig:
    """A configuration with this menu, such as "1:1 4:8"."""
    return MacroConfig(patterns=tuple(map(Pattern.parse, menu.split())), **parameters)


CONFIGS: dict[str, MacroConfig] = {
    "serial": instance(
        "1:1 4:5 4:8 2:4 1:2 1:4",
        rows=3,
        columns=4,
        activation_port=16,
        result_port=3,
        accumulator_depth=8,
    ),
    "two bits, wide windows": instance(
        "1:1 4:8 2:8 1:4",
        rows=4,
        columns=4,
        lanes=2,
        bits_per_cycle=2,
        banks=3,
        activation_port=5,
        weight_port=2,
        result_port=16,
        accumulator_depth=12,
    ),
    "three lanes, parallel": instance(
        "2:4 2:3 1:4",
        sub_macros=2,
        rows=2,
        columns=6,
        lanes=3,
        index_bits=2,
        weight_bits=5,
        activation_bits=6,
        bits_per_cycle=6,
        banks=1,
        activation_port=7,
        weight_port=12,
        result_port=5,
        accumulator_depth=4,
    ),
    "half parallel, requantized": instance(
        "1:1 4:11 2:6 1:2",
        rows=6,
        columns=2,
        lanes=4,
        bits_per_cycle=4,
        activation_port=20,
        weight_port=8,
        result_port=3,
        accumulator_depth=8,
        requantizer=True,
    ),
    "one sub-macro": instance(
        "1:1",
        sub_macros=1,
        rows=1,
        columns=1,
        lanes=1,
        index_bits=0,
        weight_bits=2,
        activation_bits=2,
        bits_per_cycle=2,
        activation_port=1,
        result_port=1,
        accumulator_depth=3,
    ),
}
"""Small instances that differ in all: slices, lanes and phases, banks, ports below and above a row's width, menus."""


def pack(values: ArrayLike, bits: int) -> int:
    """A port's value of elements of ``bits`` bits, two's complement, element 0 lowest."""
    word = 0
    for value in reversed(np.asarray(values).reshape(-1).tolist()):
        word = word << bits | value & ((1 << bits) - 1)
    return word


def unpack(word: int, bits: int, count: int, *, signed: bool = True) -> list[int]:
    """The elements of a port's value."""
    elements = []
    for index in range(count):
        element = word >> index * bits & ((1 << bits) - 1)
        elements.append(element - (1 << bits) if signed and element >> (bits - 1) else element)
    return elements


def simulate(component: wiring.Component, bench: Any) -> None:
    """Clock a component while a test bench, a coroutine function of the simulator's context, drives it."""
    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def trace(
    component: wiring.Component, stimulus: Iterable[Mapping[str, int]], outputs: Sequence[str], extra: int = 0
) -> list[tuple[int, ...]]:
    """What a component puts out, cycle by cycle.

    Parameters
    ----------
    component : Component
        The component; its ports are plain signals.
    stimulus : iterable of mapping
        For each cycle the inputs that change with it.
    outputs : sequence of str
        The outputs to look at.
    extra : int
        Cycles after the stimulus.

    Returns
    -------
    list of tuple of int
        For each cycle the outputs before its clock edge.
    """
    seen = []

    async def bench(ctx: Any) -> None:
        for inputs in [*stimulus, *[{}] * extra]:
            for name, value in inputs.items():
                ctx.set(getattr(component, name), value)
            seen.append(tuple(ctx.get(getattr(component, name)) for name in outputs))
            await ctx.tick()

    simulate(component, bench)
    return seen


def latency(seen: Sequence[object], expected: Sequence[object], interval: int) -> int:
    """How many cycles late something comes that is expected every ``interval`` cycles; -1 if it never does."""
    span = interval * (len(expected) - 1) + 1
    starts = range(len(seen) - span + 1)
    return next((start for start in starts if list(seen[start : start + span : interval]) == list(expected)), -1)


class Source:
    """The far end of an input stream. A beat that is offered stays until it is taken.

    Parameters
    ----------
    stream : stream interface
        The port.
    payloads : iterable of int
        What to offer.
    pause : callable, optional
        Asked before each new beat is offered: whether to wait a cycle.

    Attributes
    ----------
    taken : list of int
        The cycle of each beat that was taken.
    """

    def __init__(self, stream: Any, payloads: Iterable[int], pause: Callable[[], bool] = lambda: False) -> None:
        self._stream = stream
        self._payloads = list(payloads)
        self._pause = pause
        self._offered = False
        self.taken: list[int] = []

    @property
    def exhausted(self) -> bool:
        """Whether all beats have been taken."""
        return len(self.taken) == len(self._payloads)

    def offer(self, ctx: Any) -> None:
        """Show what this cycle has to offer."""
        self._offered = not self.exhausted and (self._offered or not self._pause())
        ctx.set(self._stream.valid, self._offered)
        if self._offered:
            ctx.set(Value.cast(self._stream.payload), self._payloads[len(self.taken)])

    def take(self, ctx: Any, cycle: int) -> bool:
        """Whether the beat is taken with this cycle; to be asked once, when all inputs of the cycle are there."""
        if not (self._offered and ctx.get(self._stream.ready)):
            return False
        self.taken.append(cycle)
        self._offered = False
        return True


class Sink:
    """The far end of an output stream, which holds it to its contract: what is not taken stays.

    Parameters
    ----------
    stream : stream interface
        The port.
    pause : callable, optional
        Asked in each cycle: whether not to be ready.

    Attributes
    ----------
    taken : list of (int, int)
        The cycle and the payload of each beat that was taken.
    """

    def __init__(self, stream: Any, pause: Callable[[], bool] = lambda: False) -> None:
        self._stream = stream
        self._pause = pause
        self._ready = False
        self._waits: int | None = None
        self.taken: list[tuple[int, int]] = []

    @property
    def payloads(self) -> list[int]:
        """What was taken."""
        return [payload for _, payload in self.taken]

    @property
    def cycles(self) -> list[int]:
        """When it was taken."""
        return [cycle for cycle, _ in self.taken]

    def offer(self, ctx: Any) -> None:
        """Show whether this cycle can take something."""
        self._ready = not self._pause()
        ctx.set(self._stream.ready, self._ready)

    def take(self, ctx: Any, cycle: int) -> bool:
        """Whether a beat is taken with this cycle; to be asked once, when all inputs of the cycle are there."""
        shown = ctx.get(Value.cast(self._stream.payload)) if ctx.get(self._stream.valid) else None
        assert self._waits is None or shown == self._waits, "a payload that was not taken must stay"
        taken = self._ready and shown is not None
        self._waits = None if taken else shown
        if taken:
            assert shown is not None
            self.taken.append((cycle, shown))
        return taken


async def exchange_all(ctx: Any, ends: Sequence[Source | Sink], limit: int, look: Callable[[int], None]) -> None:
    """Clock cycles until nothing has moved for a while, or the limit is reached; ``look`` sees each before its edge."""
    quiet = 0
    for cycle in range(limit):
        quiet = 0 if any(exchange(ctx, ends, cycle)) else quiet + 1
        look(cycle)
        await ctx.tick()
        if quiet == _QUIET_CYCLES:
            return


_QUIET_CYCLES = 30
"""Cycles without a transfer after which there will be none: more than far ends pause by chance."""


def exchange(ctx: Any, ends: Sequence[Source | Sink], cycle: int) -> list[bool]:
    """One cycle of the ends of several streams, up to its clock edge; returns for each whether it moved something."""
    for end in ends:
        end.offer(ctx)
    return [end.take(ctx, cycle) for end in ends]
