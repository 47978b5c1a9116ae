"""The outlet: a packet's bits come out as they went in, at full rate, whatever the widths."""

from __future__ import annotations

import numpy as np
import pytest

from flexcim_hw.accelerator.outlet import Outlet
from tests.support.instructions import pausing, random_bits
from tests.support.simulation import Sink, Source, exchange_all, simulate

WIDTHS = [(96, 32), (32, 96), (64, 64), (160, 128), (96, 128), (32, 1024)]
for_each_width = pytest.mark.parametrize(("beat", "word"), WIDTHS)


def play(beat, word, packets, share, cycles):
    """Put packets in, and take words; returns the outlet and the ends of its streams."""
    outlet = Outlet(beat, word)
    rng = np.random.default_rng(76)
    payloads = [value | (index == len(packet) - 1) << beat for packet in packets for index, value in enumerate(packet)]
    source = Source(outlet.beats, payloads, pausing(rng, share))
    sink = Sink(outlet.words, pausing(rng, share))

    async def bench(ctx):
        await exchange_all(ctx, [source, sink], cycles, lambda _: None)

    simulate(outlet, bench)
    assert source.exhausted
    return outlet, source, sink


def fields(word, payload):
    """Data, keep and last of a word's payload."""
    return (
        payload & ((1 << word) - 1),
        payload >> word & ((1 << word // 8) - 1),
        payload >> (word + word // 8),
    )


@for_each_width
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_words_are_the_bits_of_their_packet(beat, word, share):
    rng = np.random.default_rng(77)
    packets = [[random_bits(rng, beat) for _ in range(count)] for count in (1, 3, 2, 6, 1)]
    _, _, sink = play(beat, word, packets, share, 300)
    got: list[list[tuple[int, int]]] = [[]]
    for payload in sink.payloads:
        data, keep, last = fields(word, payload)
        got[-1].append((data, keep))
        if last:
            got.append([])
    assert got.pop() == []
    for packet, words in zip(packets, got, strict=True):
        size = len(packet) * beat // 8
        assert [keep.bit_count() for _, keep in words] == [
            min(word // 8, size - at) for at in range(0, size, word // 8)
        ]
        data = b"".join(value.to_bytes(word // 8, "little")[: keep.bit_length()] for value, keep in words)
        whole = sum(value << beat * index for index, value in enumerate(packet))
        assert int.from_bytes(data, "little") == whole


@for_each_width
def test_a_word_comes_one_cycle_after_its_beat_and_packets_in_their_interval(beat, word):
    rng = np.random.default_rng(78)
    counts = [*range(1, 12), 40, 41, 1]
    packets = [[random_bits(rng, beat) for _ in range(count)] for count in counts]
    outlet, source, sink = play(beat, word, packets, 0.0, sum(counts) * (1 + beat // word) + 200)
    firsts = [source.taken[sum(counts[:index])] for index in range(len(counts))]
    assert np.diff(firsts).tolist() == [outlet.interval(count) for count in counts[:-1]]
    assert sink.cycles[0] == source.taken[0] + outlet.latency  # a packet of one beat


def test_nothing_is_taken_until_a_packet_has_left():
    outlet = Outlet(32, 64)
    source = Source(outlet.beats, [1 | 1 << 32, 2 | 1 << 32])
    taken = []

    async def bench(ctx):
        for cycle in range(8):
            ctx.set(outlet.words.ready, cycle >= 5)
            source.offer(ctx)
            taken.append(source.take(ctx, cycle))
            await ctx.tick()

    simulate(outlet, bench)
    assert taken == [True, False, False, False, False, False, True, False]
