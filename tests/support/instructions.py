"""Instructions and bus words as the payloads of streams, for the tests of the accelerator's parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flexcim.accelerator.instructions import INSTRUCTION_FIELDS, Opcode

__all__ = ["image_words", "instruction", "pausing", "random_bits"]


def instruction(op: Opcode, **fields: int) -> int:
    """The 128-bit word of an instruction with these fields, the others 0."""
    word = int(op)
    for name, value in fields.items():
        low, width = INSTRUCTION_FIELDS[op][name]
        assert 0 <= value < 1 << width, (name, value)
        word |= value << low
    return word


def random_bits(rng: Any, bits: int) -> int:
    """An unsigned number of so many random bits."""
    return int.from_bytes(rng.bytes(bits // 8 + 1), "little") & ((1 << bits) - 1)


def image_words(rng: Any, beats: Sequence[int], beat_bits: int, word_bits: int) -> list[int]:
    """The words of the image of some beats, with random bits behind its end."""
    used = len(beats) * beat_bits
    count = -(-used // word_bits)
    whole = sum(beat << beat_bits * index for index, beat in enumerate(beats))
    whole |= random_bits(rng, count * word_bits - used) << used
    return [whole >> word_bits * index & ((1 << word_bits) - 1) for index in range(count)]


def pausing(rng: Any, share: float) -> Callable[[], bool]:
    """A stream's far end that pauses in this share of the cycles."""
    return lambda: bool(rng.random() < share)
