"""The intake: an image's bits come out as they went in, at full rate, whatever the widths."""

from __future__ import annotations

import itertools
from math import gcd
from typing import NamedTuple

import numpy as np
import pytest

from flexcim.accelerator.instructions import AcceleratorError
from flexcim_hw.accelerator.intake import Intake
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


class Played(NamedTuple):
    """What an intake did: the beats and the cycles in which they and the words were taken, and all cycles' errors."""

    intake: Intake
    beats: list[int]
    beat_cycles: list[int]
    word_cycles: list[int]
    errors: list[int]


def play_intake(word, beat, words, finals, *, announced=None, lasts=(), share=0.0, limit=400):
    """Offer words and take beats."""
    intake = Intake(word, beat, 64, AcceleratorError.WEIGHTS_LAST)
    rng = np.random.default_rng(71)
    played = Played(intake, [], [], [], [])

    async def bench(ctx):
        for count in announced or map(len, words):
            ctx.set(intake.images.valid, 1)
            ctx.set(intake.images.payload, count)
            assert ctx.get(intake.images.ready)
            await ctx.tick()
        ctx.set(intake.images.valid, 0)
        flat, place = list(itertools.chain(*words)), 0
        for cycle in range(limit):
            offers = place < len(flat) and rng.random() >= share
            ctx.set(intake.words.valid, offers)
            ctx.set(intake.words.payload, {"data": flat[place] if offers else 0, "last": place in lasts})
            ready = rng.random() >= share and len(played.beats) < len(finals)
            ctx.set(intake.beats.ready, ready)
            ctx.set(intake.final, ready and finals[len(played.beats)])
            if ready and ctx.get(intake.beats.valid):
                played.beats.append(ctx.get(intake.beats.payload))
                played.beat_cycles.append(cycle)
            if offers and ctx.get(intake.words.ready):
                played.word_cycles.append(cycle)
                place += 1
            played.errors.append(ctx.get(intake.error))
            if played.errors[-1]:
                return
            await ctx.tick()
        assert not ctx.get(intake.words.ready)
        assert not ctx.get(intake.beats.valid)

    simulate(intake, bench)
    return played


@for_each_width
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_beats_are_the_bits_of_their_image(word, beat, share):
    rng = np.random.default_rng(72)
    counts = [1, 2, 5, 1, 1, 3, 7]
    beats, words = images(rng, word, beat, counts)
    finals = [index == count - 1 for count in counts for index in range(count)]
    played = play_intake(word, beat, words, finals, share=share)
    assert played.beats == list(itertools.chain(*beats))
    assert not any(played.errors)


@for_each_width
def test_the_wider_side_moves_in_every_cycle(word, beat):
    """A word or a beat a cycle, `latency` cycles from one to the other, and whole images in `interval` cycles each."""
    count = 4 * word // gcd(word, beat)  # beats that fill whole words
    _, words = images(np.random.default_rng(73), word, beat, [count] * 3)
    finals = ([False] * (count - 1) + [True]) * 3
    played = play_intake(word, beat, words, finals, limit=3 * max(count, count * beat // word) + 20)
    needed = [-(-(index + 1) * beat // word) for index in range(count)]  # words that a beat needs
    start = played.word_cycles[0]
    first = start + needed[0] - 1 + played.intake.latency
    assert played.beat_cycles[:count] == [
        max(first + index, start + need - 1 + played.intake.latency) for index, need in enumerate(needed)
    ]
    firsts = played.beat_cycles[::count]
    assert np.diff(firsts).tolist() == [played.intake.interval(count)] * 2


@for_each_width
@pytest.mark.parametrize("more", [1, -1])
def test_more_or_fewer_words_than_the_beats_need_are_an_error(word, beat, more):
    count = 6
    _, words = images(np.random.default_rng(74), word, beat, [count, 1])
    announced = [len(words[0]) + more, len(words[1])]
    played = play_intake(word, beat, words, [False] * (count - 1) + [True, True], announced=announced)
    assert played.errors[-1] == AcceleratorError.WORDS


@for_each_width
def test_a_misplaced_last_is_an_error(word, beat):
    counts = [3, 12]
    _, words = images(np.random.default_rng(75), word, beat, counts)
    finals = [index == count - 1 for count in counts for index in range(count)]
    assert len(words[1]) > 2
    ends = {len(words[0]) - 1, len(words[0]) + len(words[1]) - 1}
    assert not any(play_intake(word, beat, words, finals, lasts=ends).errors)
    played = play_intake(word, beat, words, finals, lasts={len(words[0]) + 1})
    assert played.errors[-1] == AcceleratorError.WEIGHTS_LAST
