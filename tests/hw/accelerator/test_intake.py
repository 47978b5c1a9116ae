"""The intake and the outlet: bits come out as they went in, at full rate, whatever the widths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from flexcim.accelerator.instructions import AcceleratorError
from flexcim_hw.accelerator.intake import Intake
from flexcim_hw.accelerator.outlet import Outlet
from tests.support.simulation import simulate

WIDTHS = [(32, 32), (32, 88), (128, 88), (64, 32), (32, 128), (32, 11), (64, 7 * 6)]
for_each_width = pytest.mark.parametrize(("word", "beat"), WIDTHS)


def random_bits(rng, bits):
    return int.from_bytes(rng.bytes(bits // 8 + 1), "little") & ((1 << bits) - 1)


def images(rng, word, beat, counts):
    """Beats of images of so many beats each, and their words."""
    beats = [[random_bits(rng, beat) for _ in range(count)] for count in counts]
    words = []
    for image in beats:
        whole = sum(one << beat * index for index, one in enumerate(image))
        count = -(-len(image) * beat // word)
        padded = whole | random_bits(rng, count * word) >> len(image) * beat << len(image) * beat
        words.append([padded >> word * index & ((1 << word) - 1) for index in range(count)])
    return beats, words


def play_intake(word, beat, words, finals, *, announced=None, lasts=(), share=0.0, limit=400):
    """Offer words and take beats; returns the beats with their cycles, and the errors of all cycles."""
    intake = Intake(word, beat, 64, AcceleratorError.WEIGHTS_LAST)
    rng = np.random.default_rng(71)
    taken: list[tuple[int, int]] = []
    errors: list[int] = []

    async def bench(ctx):
        for count in announced or map(len, words):
            ctx.set(intake.image, 1)
            ctx.set(intake.image_words, count)
            await ctx.tick()
        ctx.set(intake.image, 0)
        flat, place = list(itertools.chain(*words)), 0
        for cycle in range(limit):
            offers = place < len(flat) and rng.random() >= share
            ctx.set(intake.bus_valid, offers)
            ctx.set(intake.bus_data, flat[place] if offers else 0)
            ctx.set(intake.bus_last, place in lasts)
            takes = bool(ctx.get(intake.valid)) and rng.random() >= share and len(taken) < len(finals)
            ctx.set(intake.take, takes)
            ctx.set(intake.final, takes and finals[len(taken)])
            if takes:
                taken.append((cycle, ctx.get(intake.beat)))
            place += bool(offers and ctx.get(intake.bus_ready))
            errors.append(ctx.get(intake.error))
            if errors[-1]:
                return
            await ctx.tick()
        assert ctx.get(intake.idle)

    simulate(intake, bench)
    return taken, errors


@for_each_width
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_beats_are_the_bits_of_their_image(word, beat, share):
    rng = np.random.default_rng(72)
    counts = [1, 2, 5, 1, 1, 3, 7]
    beats, words = images(rng, word, beat, counts)
    finals = [index == count - 1 for count in counts for index in range(count)]
    taken, errors = play_intake(word, beat, words, finals, share=share)
    assert [value for _, value in taken] == list(itertools.chain(*beats))
    assert not any(errors)


@for_each_width
def test_the_wider_side_moves_in_every_cycle(word, beat):
    """A word or a beat a cycle, and `latency` cycles from one to the other."""
    count = 40
    beats, words = images(np.random.default_rng(73), word, beat, [count])
    taken, _ = play_intake(word, beat, words, [False] * (count - 1) + [True])
    cycles = [cycle for cycle, _ in taken]
    needed = [-(-(index + 1) * beat // word) for index in range(count)]  # words that a beat needs
    first = cycles[0] - needed[0]
    assert cycles == [first + max(index + needed[0], need) for index, need in enumerate(needed)]
    assert beats[0][0] == taken[0][1]


@for_each_width
@pytest.mark.parametrize("more", [1, -1])
def test_more_or_fewer_words_than_the_beats_need_are_an_error(word, beat, more):
    count = 6
    _, words = images(np.random.default_rng(74), word, beat, [count, 1])
    announced = [len(words[0]) + more, len(words[1])]
    _, errors = play_intake(word, beat, words, [False] * (count - 1) + [True, True], announced=announced)
    assert errors[-1] == AcceleratorError.WORDS


@for_each_width
def test_a_misplaced_last_is_an_error(word, beat):
    counts = [3, 12]
    _, words = images(np.random.default_rng(75), word, beat, counts)
    finals = [index == count - 1 for count in counts for index in range(count)]
    assert len(words[1]) > 2
    ends = {len(words[0]) - 1, len(words[0]) + len(words[1]) - 1}
    _, errors = play_intake(word, beat, words, finals, lasts=ends)
    assert not any(errors)
    _, errors = play_intake(word, beat, words, finals, lasts={len(words[0]) + 1})
    assert errors[-1] == AcceleratorError.WEIGHTS_LAST


# --- The outlet ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("beat", "word"), [(96, 32), (32, 96), (64, 64), (160, 128), (32, 1024)])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_words_are_the_bits_of_their_packet(beat, word, share):
    rng = np.random.default_rng(76)
    counts = [1, 3, 2, 6, 1]
    packets = [[random_bits(rng, beat) for _ in range(count)] for count in counts]
    outlet = Outlet(beat, word)
    got: list[list[tuple[int, int]]] = [[]]

    async def bench(ctx):
        flat = [(value, index == len(packet) - 1) for packet in packets for index, value in enumerate(packet)]
        place, held = 0, None
        for _ in range(300):
            offers = place < len(flat) and rng.random() >= share
            ctx.set(outlet.beat_valid, offers)
            if offers:
                ctx.set(outlet.beat, flat[place][0])
                ctx.set(outlet.beat_end, flat[place][1])
            ready = rng.random() >= share
            ctx.set(outlet.bus_ready, ready)
            place += bool(offers and ctx.get(outlet.beat_ready))
            shown = None
            if ctx.get(outlet.bus_valid):
                shown = ctx.get(outlet.bus_data), ctx.get(outlet.bus_keep), ctx.get(outlet.bus_last)
            assert held is None or shown == held
            held = None if ready else shown
            if ready and shown:
                got[-1].append(shown[:2])
                if shown[2]:
                    got.append([])
            await ctx.tick()

    simulate(outlet, bench)
    assert got.pop() == []
    for packet, words in zip(packets, got, strict=True):
        size = len(packet) * beat // 8
        assert [keep.bit_count() for _, keep in words] == [
            min(word // 8, size - at) for at in range(0, size, word // 8)
        ]
        data = b"".join(value.to_bytes(word // 8, "little")[: keep.bit_length()] for value, keep in words)
        whole = sum(value << beat * index for index, value in enumerate(packet))
        assert int.from_bytes(data, "little") == whole
