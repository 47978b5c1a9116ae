"""The converters' cycles, against converters that are stepped cycle by cycle (docs/architecture.md, section 7.5).

Here a buffer has so many bits in each cycle; the model has recurrences of cycles instead.
"""

from __future__ import annotations

from math import gcd

import numpy as np
import pytest

from flexcim.accelerator.stream_cycles import Intake, Outlet, at_once, stall_pattern
from flexcim.macro.cycles import CycleError

WIDTHS = [(32, 32), (32, 88), (88, 32), (512, 44), (64, 24), (24, 1024)]


def capacity(word, beat):
    """W + D + min(W, D) - gcd(W, D)."""
    return word + beat + min(word, beat) - gcd(word, beat)


def stepped_intake(word, beat, images, dispatched, goes, wanted):
    """The cycles in which beats are taken: of images of so many beats, by a sink that wants each from a cycle on."""
    free, words, beats = capacity(word, beat), [], []
    taken: list[int] = []
    for image, count in enumerate(images):
        words += [image] * -(-count * beat // word)
        beats += [image] * count
    padding = [-count * beat % word for count in images]
    held, visible, cycle, completed = 0, 0, 0, 0  # bits in the buffer, and those that were there a cycle ago
    shown = False  # a word, once it is there, stays until it is taken
    while len(taken) < len(beats):
        image = beats[len(taken)]
        last = len(taken) + 1 == len(beats) or beats[len(taken) + 1] != image
        freed = 0
        if cycle >= wanted[len(taken)] and visible >= beat:
            taken.append(cycle)
            freed = beat + (padding[image] if last else 0)
        arrived = 0
        shown = shown or goes[cycle % len(goes)]
        if shown and completed < len(words) and cycle >= dispatched[words[completed]] + 2 and held + word <= free:
            arrived, shown = word, False
            completed += 1
        held += arrived - freed
        visible = held
        cycle += 1
    return taken


@pytest.mark.parametrize(("word", "beat"), WIDTHS)
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_beats_are_taken_when_a_stepped_converter_has_them(word, beat, share):
    rng = np.random.default_rng(word + beat)
    goes = [True, *(rng.random(40) < share).tolist()]
    images = [1, 5, 12, 3]
    dispatched = [0, 4, 9, 90]
    # The sink is quick for two images, and slow for the others; it waits from one beat to the next.
    wanted = np.cumsum(np.concatenate([np.ones(6, int), rng.integers(1, 9, sum(images) - 6)])).tolist()
    intake = Intake(word, beat, stall_pattern(goes))
    found, place = [], 0
    for count, when in zip(images, dispatched, strict=True):
        intake.announce(-(-count * beat // word), when)
        for number in range(count):
            found.append(intake.take(wanted[place], final=number == count - 1))
            place += 1
    assert found == stepped_intake(word, beat, images, dispatched, goes, wanted)
    assert intake.words == sum(-(-count * beat // word) for count in images)


def stepped_outlet(beat, word, packets, goes, offered):
    """The cycles in which beats are taken, and how many words have left: packets of so many beats, from cycles on."""
    free, words = capacity(word, beat), 0
    taken: list[int] = []
    ends = np.cumsum(packets).tolist()
    held, visible, cycle, ended = 0, 0, 0, False
    while len(taken) < ends[-1] or held:
        left = 0
        if (visible >= word or (ended and visible > 0)) and goes[cycle % len(goes)]:
            left = min(word, visible)
            words += 1
        arrived = 0
        if not ended and len(taken) < ends[-1] and cycle >= offered[len(taken)] and held + beat <= free:
            taken.append(cycle)
            arrived = beat
        held += arrived - left
        if ended and held == 0:
            ended = False
        if arrived and len(taken) in ends:
            ended = True
        visible = held
        cycle += 1
    return taken, words


@pytest.mark.parametrize(("beat", "word"), WIDTHS)
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_results_are_taken_when_a_stepped_converter_has_room(beat, word, share):
    rng = np.random.default_rng(word - beat + 2000)
    goes = [True, *(rng.random(40) < share).tolist()]
    packets = [1, 6, 11]
    offered = np.cumsum(rng.integers(1, 4, sum(packets))).tolist()
    outlet = Outlet(beat, word, stall_pattern(goes))
    ends = np.cumsum(packets).tolist()
    found = [outlet.put(cycle, end=place + 1 in ends) for place, cycle in enumerate(offered)]
    taken, words = stepped_outlet(beat, word, packets, goes, offered)
    assert found == taken
    assert outlet.words == words == sum(-(-count * beat // word) for count in packets)


def test_a_stream_that_flows_counts_no_stall_of_its_own():
    outlet = Outlet(32, 32, at_once)
    for cycle in range(5):
        outlet.put(cycle, end=cycle == 4)
    assert outlet.stalls == 0
    intake = Intake(32, 32, at_once)
    intake.announce(5, 0)
    # Dispatched in cycle 0: the first word comes in cycle 2, its beat is there in cycle 3.
    assert [intake.take(1, final=beat == 4) for beat in range(5)] == [3, 4, 5, 6, 7]
    assert intake.stalls == 2


@pytest.mark.parametrize(("words", "message"), [(1, "its beats need more"), (3, "its beats need 2")])
def test_an_image_of_another_size_than_its_beats_is_refused(words, message):
    intake = Intake(64, 48, at_once)
    intake.announce(words, 0)
    intake.take(0, final=False)
    with pytest.raises(CycleError, match=f"^an image of {words} words was announced, but {message}$"):
        intake.take(0, final=words == 3)


def test_a_stall_pattern_repeats_itself():
    goes = stall_pattern([False, True, False, False, True])
    assert [goes(cycle) for cycle in range(12)] == [1, 1, 4, 4, 4, 6, 6, 9, 9, 9, 11, 11]
    with pytest.raises(ValueError, match="a stall pattern must go in at least one cycle"):
        stall_pattern([False, False])
