"""When words and beats pass the accelerator's streams: the converters between buses and macros (docs/architecture.md,
section 7.5)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from math import gcd

import numpy as np

from flexcim.macro.cycles import CycleError

__all__ = ["Intake", "NextCycle", "Outlet", "at_once", "stall_pattern"]

NextCycle = Callable[[int], int]
"""Gives the first cycle, not before a given one, in which the far end of a stream does not pause."""


def stall_pattern(goes: Sequence[bool]) -> NextCycle:
    """A stream's far end that goes, or pauses, in a cycle as a pattern says, which repeats itself from cycle 0 on.

    A source that goes shows its next word in that cycle, and then until it is taken; a sink that goes is ready.

    Parameters
    ----------
    goes : sequence of bool
        At least one is true.

    Raises
    ------
    ValueError
        If it never goes.
    """
    if not any(goes):
        raise ValueError("a stall pattern must go in at least one cycle")
    period = len(goes)
    ahead = np.zeros(2 * period, np.int64)  # cycles until it goes, from each place of two periods
    distance = 0
    for place in reversed(range(2 * period)):
        distance = 0 if goes[place % period] else distance + 1
        ahead[place] = distance
    waits = ahead[:period].tolist()
    return lambda cycle: cycle + int(waits[cycle % period])


def at_once(cycle: int) -> int:
    """That of a far end that never pauses."""
    return cycle


class _Steps:
    """How far a counter of bits has come at which cycle; asked for ever later places."""

    def __init__(self) -> None:
        self._steps: deque[tuple[int, int]] = deque()
        self._reached = -1

    def reach(self, place: int, cycle: int) -> None:
        self._steps.append((place, cycle))

    def state(self, asked: int, origin: int, base: int) -> tuple[int, ...]:
        """What later answers depend on, for places from ``asked`` on: pairs of a place relative to ``origin`` and a
        cycle relative to ``base``."""
        steps = [(0, base)] if asked <= 0 else []
        steps += [step for step in self._steps if step[0] >= asked]
        return tuple(part for place, cycle in steps for part in (place - origin, max(0, cycle - base)))

    def when(self, place: int) -> int:
        """The cycle in which the counter reached a place; -1 for where it began."""
        if place <= 0:
            return -1
        while True:
            reached, self._reached = self._steps[0]
            if reached >= place:
                return self._reached
            self._steps.popleft()


class Intake:
    """A stream's words, as they come, and the beats that are made of them, image by image.

    Parameters
    ----------
    word, beat : int
        Bits of a word of the bus, and of a beat.
    offered : NextCycle
        When the source goes.
    """

    def __init__(self, word: int, beat: int, offered: NextCycle) -> None:
        self.word, self.beat = word, beat
        self.size = word + beat + min(word, beat) - gcd(word, beat)
        self.offered = offered
        self.words = 0  # of the images that were announced
        self.accepted = 0
        self.last_word = -1
        self.last_beat = 0
        self.stalls = 0
        self.taken = _Steps()

    def announce(self, words: int, dispatched: int) -> None:
        """The next image has so many words, and its instruction was dispatched in this cycle."""
        self.first, self.words = self.words, self.words + words
        self.known = dispatched + 2
        self.given = self.first * self.word

    def state(self, base: int) -> tuple[int, ...]:
        """What later images depend on; between images, all bits that were accepted were given."""
        asked = (self.accepted + 1) * self.word - self.size
        times = self.last_word, self.last_beat
        return *(max(0, cycle - base) for cycle in times), *self.taken.state(asked, self.words * self.word, base)

    def take(self, earliest: int, *, final: bool) -> int:
        """The cycle in which the image's next beat, perhaps its last, is taken, if it can be from a cycle on.

        Raises
        ------
        CycleError
            If the image was announced with more or fewer words than its beats take.
        """
        earliest = max(earliest, self.last_beat + 1)
        self.given += self.beat
        while self.accepted * self.word < self.given:
            cycle = max(self.offered(self.last_word + 1), self.known)
            room = self.taken.when((self.accepted + 1) * self.word - self.size)
            self.last_word = max(cycle, room + 1)
            self.accepted += 1
        if final:
            if self.accepted != self.words:
                raise CycleError(
                    f"an image of {self.words - self.first} words was announced, but its beats need "
                    f"{self.accepted - self.first}"
                )
            self.given = self.words * self.word
        elif self.accepted > self.words:
            raise CycleError(f"an image of {self.words - self.first} words was announced, but its beats need more")
        self.last_beat = max(earliest, self.last_word + 1)
        self.stalls += self.last_beat - earliest
        self.taken.reach(self.given, self.last_beat)
        return self.last_beat


class Outlet:
    """Result beats, and the words that they leave in, packet by packet.

    Parameters
    ----------
    beat, word : int
        Bits of a beat, and of a word of the bus.
    ready : NextCycle
        When the sink goes.
    """

    def __init__(self, beat: int, word: int, ready: NextCycle) -> None:
        self.beat, self.word = beat, word
        self.size = word + beat + min(word, beat) - gcd(word, beat)
        self.ready = ready
        self.last_beat = self.last_word = -1
        self.words = self.stalls = 0
        self.resumes = 0
        self.taken = self.left = 0  # bits of the packet
        self.leaving = _Steps()

    def state(self, base: int) -> tuple[int, ...]:
        """What later beats depend on."""
        times = self.last_beat, self.last_word, self.resumes
        held = self.taken - self.left
        left = self.leaving.state(self.taken + self.beat - self.size, self.left, base)
        return held, *(max(0, cycle - base) for cycle in times), *left

    def put(self, earliest: int, *, end: bool) -> int:
        """The cycle in which the next beat is taken, if it can be from a cycle on."""
        room = self.leaving.when(self.taken + self.beat - self.size)
        cycle = max(earliest, self.last_beat + 1, self.resumes, room + 1)
        self.last_beat = cycle
        self.taken += self.beat
        while self.taken - self.left >= self.word or (end and self.left < self.taken):
            shown = max(self.last_word + 1, cycle + 1)
            self.last_word = self.ready(shown)
            self.stalls += self.last_word - shown
            self.words += 1
            self.left += self.word
            self.leaving.reach(self.left, self.last_word)
        if end:
            self.resumes = self.last_word + 1
            self.taken = self.left = 0
            self.leaving = _Steps()
        return cycle
