"""The bridges: AXI4-Lite and Wishbone accesses in random rhythms against a register file that the test plays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from flexcim_hw.accelerator.register_buses import Axi4LiteBridge, WishboneBridge
from tests.support.simulation import simulate

OKAY, SLVERR = 0b00, 0b10


@dataclass
class Registers:
    """The far side of a bridge: 16 words at addresses of which every fourth is known to neither reads nor writes."""

    words: dict[int, int] = field(default_factory=dict)
    writes: list[tuple[int, int, int]] = field(default_factory=list)

    @staticmethod
    def known(address):
        return address % 16 != 12

    def answer(self, ctx, registers):
        """Show what the bridge asks for in this cycle."""
        read, write = ctx.get(registers.read_address), ctx.get(registers.write_address)
        ctx.set(registers.read_known, self.known(read))
        ctx.set(registers.read_data, self.words.get(read, read * 3))
        ctx.set(registers.write_known, self.known(write))

    def step(self, ctx, registers, cycle):
        """See a write with the clock edge."""
        if ctx.get(registers.write):
            address, word = ctx.get(registers.write_address), ctx.get(registers.write_data)
            self.writes.append((cycle, address, word))
            if self.known(address):
                self.words[address] = word


class Channel:
    """A channel that the host sends on: each word is shown after a pause, and stays until it is taken."""

    def __init__(self, bus, name, payloads, pause):
        self.bus, self.name, self.payloads, self.pause = bus, name, payloads, pause
        self.shown = False
        self.taken: list[int] = []

    def offer(self, ctx):
        left = len(self.taken) < len(self.payloads)
        self.shown = left and (self.shown or not self.pause())
        ctx.set(getattr(self.bus, f"{self.name}valid"), self.shown)
        if self.shown:
            for port, value in self.payloads[len(self.taken)].items():
                ctx.set(getattr(self.bus, port), value)

    def take(self, ctx, cycle):
        if self.shown and ctx.get(getattr(self.bus, f"{self.name}ready")):
            self.taken.append(cycle)
            self.shown = False


class Answers:
    """A channel that the host is answered on; what it does not take must stay."""

    def __init__(self, bus, name, ports, pause):
        self.bus, self.name, self.ports, self.pause = bus, name, ports, pause
        self.waits: tuple[int, ...] | None = None
        self.taken: list[tuple[int, ...]] = []

    def offer(self, ctx):
        self.ready = not self.pause()
        ctx.set(getattr(self.bus, f"{self.name}ready"), self.ready)

    def take(self, ctx, cycle):
        valid = ctx.get(getattr(self.bus, f"{self.name}valid"))
        shown = tuple(ctx.get(getattr(self.bus, port)) for port in self.ports) if valid else None
        assert self.waits is None or shown == self.waits, "an answer that was not taken must stay"
        self.waits = None if self.ready else shown
        if self.ready and shown is not None:
            self.taken.append((cycle, *shown))


def play_axi(writes, reads, shares, cycles=1000):
    """``shares``: how often each of the channels aw, w, b, ar, r pauses; returns them, and the registers."""
    bridge, registers = Axi4LiteBridge(), Registers()
    bus, rng = bridge.bus, np.random.default_rng(121)
    pauses = {name: (lambda share=share: bool(rng.random() < share)) for name, share in shares.items()}
    addresses = [{"awaddr": address} for address, _, _ in writes]
    words = [{"wdata": word, "wstrb": strobe} for _, word, strobe in writes]
    ends: dict[str, Any] = {
        "aw": Channel(bus, "aw", addresses, pauses["aw"]),
        "w": Channel(bus, "w", words, pauses["w"]),
        "b": Answers(bus, "b", ["bresp"], pauses["b"]),
        "ar": Channel(bus, "ar", [{"araddr": address} for address in reads], pauses["ar"]),
        "r": Answers(bus, "r", ["rdata", "rresp"], pauses["r"]),
    }

    async def bench(ctx):
        for cycle in range(cycles):
            for end in ends.values():
                end.offer(ctx)
            registers.answer(ctx, bridge.registers)
            for end in ends.values():
                end.take(ctx, cycle)
            registers.step(ctx, bridge.registers, cycle)
            if len(ends["b"].taken) == len(writes) and len(ends["r"].taken) == len(reads):
                return
            await ctx.tick()

    simulate(bridge, bench)
    return ends, registers


ALWAYS = dict.fromkeys(("aw", "w", "b", "ar", "r"), 0.0)
RHYTHMS = {
    "always": ALWAYS,
    "late addresses": ALWAYS | {"aw": 0.8, "ar": 0.5},
    "late words": ALWAYS | {"w": 0.8},
    "late to take answers": ALWAYS | {"b": 0.8, "r": 0.7},
    "all at random": dict.fromkeys(ALWAYS, 0.5),
}


def random_writes(rng, count):
    strobes = rng.choice([15, 15, 15, 7, 0], count)
    return [(4 * int(rng.integers(16)), int(rng.integers(1 << 32)), int(strobe)) for strobe in strobes]


@pytest.mark.parametrize("shares", RHYTHMS.values(), ids=RHYTHMS)
def test_axi_writes_act_once_and_in_order(shares):
    """Each whole write acts, a partial one does not; both, and one to an unknown address, are answered in order."""
    rng = np.random.default_rng(122)
    writes = random_writes(rng, 40)
    ends, registers = play_axi(writes, [], shares)
    assert [entry[1:] for entry in registers.writes] == [
        (address, word) for address, word, strobe in writes if strobe == 15
    ]
    assert [answer for _, answer in ends["b"].taken] == [
        OKAY if strobe == 15 and Registers.known(address) else SLVERR for address, _, strobe in writes
    ]


@pytest.mark.parametrize("shares", RHYTHMS.values(), ids=RHYTHMS)
def test_axi_reads_are_answered_in_order_and_beside_writes(shares):
    rng = np.random.default_rng(123)
    reads = [4 * int(rng.integers(16)) for _ in range(40)]
    ends, registers = play_axi([(64 + 4 * index, index, 15) for index in range(40)], reads, shares)
    assert [entry[1:] for entry in ends["r"].taken] == [
        (3 * address, OKAY if Registers.known(address) else SLVERR) for address in reads
    ]
    assert len(registers.writes) == 40


def test_axi_answers_come_latency_cycles_after_the_request_and_one_in_each_interval():
    ends, registers = play_axi([(0, 1, 15)] * 10, [0] * 10, ALWAYS)
    for request, answer in (("w", "b"), ("ar", "r")):
        taken = ends[request].taken
        assert np.diff(taken).tolist() == [Axi4LiteBridge.interval] * 9
        assert [entry[0] for entry in ends[answer].taken] == [cycle + Axi4LiteBridge.latency for cycle in taken]
    assert [cycle for cycle, _, _ in registers.writes] == [cycle + 1 for cycle in ends["w"].taken]


def play_wishbone(accesses, share, cycles=400):
    """Accesses of address, word or None for a read, select; returns their answers, and the registers."""
    bridge, registers = WishboneBridge(), Registers()
    bus, rng = bridge.bus, np.random.default_rng(124)
    answers = []

    async def bench(ctx):
        place, begun = 0, None
        for cycle in range(cycles):
            if place == len(accesses):
                ctx.set(bus.stb_i, 0)
                await ctx.tick().repeat(3)
                return
            address, word, select = accesses[place]
            if begun is None and rng.random() >= share:
                begun = cycle
            ctx.set(bus.cyc_i, begun is not None or rng.random() < 0.5)
            ctx.set(bus.stb_i, begun is not None)
            ctx.set(bus.adr_i, address)
            ctx.set(bus.we_i, word is not None)
            ctx.set(bus.dat_i, word or 0)
            ctx.set(bus.sel_i, select)
            registers.answer(ctx, bridge.registers)
            registers.step(ctx, bridge.registers, cycle)
            ack, err = ctx.get(bus.ack_o), ctx.get(bus.err_o)
            assert not (ack and err)
            if ack or err:
                assert begun is not None
                answers.append((begun, cycle, ack, ctx.get(bus.dat_o)))
                place, begun = place + 1, None
            await ctx.tick()

    simulate(bridge, bench)
    return answers, registers


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_wishbone_accesses_act_once_and_are_answered(share):
    rng = np.random.default_rng(125)
    accesses = [
        (address, word if rng.random() < 0.6 else None, select) for address, word, select in random_writes(rng, 40)
    ]
    answers, registers = play_wishbone(accesses, share)
    assert len(answers) == len(accesses)
    model: dict[int, int] = {}
    writes: list[tuple[int, int, int]] = []
    for (address, word, select), (begun, cycle, ack, data) in zip(accesses, answers, strict=True):
        assert cycle == begun + WishboneBridge.latency
        whole = word is None or select == 15
        assert ack == (Registers.known(address) and whole)
        if word is None:
            assert data == model.get(address, 3 * address)
        elif whole:
            writes.append((begun, address, word))
            if Registers.known(address):
                model[address] = word
    assert registers.writes == writes
    if not share:
        assert np.diff([begun for begun, *_ in answers]).tolist() == [WishboneBridge.interval] * (len(answers) - 1)
