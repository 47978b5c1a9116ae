#!/usr/bin/env python3
"""Measure how fast weights pass into the slot format and back, and how much faster than block by block.

Rates are dense weights per second on one core, the best of three runs. The reference works on the first rows of the
same matrix, and both must agree on them.

    python scripts/benchmark_slots.py
    python scripts/benchmark_slots.py --size 1024
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, TypeVar

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from flexcim.config.pattern import Pattern
from flexcim.packed.slots import decode_slots, encode_slots

PATTERNS = ("1:1", "1:2", "1:4", "2:4", "2:8", "4:5", "4:8", "4:11")
REFERENCE_ROWS = 8
REPEATS = 3

Slots = tuple[NDArray[np.int8], NDArray[np.uint8]]
Result = TypeVar("Result")


def random_weights(size: int, pattern: Pattern, rng: np.random.Generator) -> NDArray[np.int8]:
    """A matrix of about ``size`` x ``size`` non-zero weights, all but n of each block zeroed."""
    blocks = -(-size // pattern.m)
    order = rng.random((size, blocks, pattern.m), dtype=np.float32).argsort(axis=2)
    weights = rng.integers(1, 128, size=order.shape, dtype=np.int8)
    return np.where(order < pattern.n, weights, 0).astype(np.int8).reshape(size, -1)


def reference_encode(weights: NDArray[np.int8], pattern: Pattern) -> Slots:
    """Encode block by block."""
    outputs, inputs = weights.shape
    values = np.zeros((outputs, inputs // pattern.m, pattern.n), np.int8)
    offsets = np.zeros(values.shape, np.uint8)
    for output in range(outputs):
        for block in range(values.shape[1]):
            cells = weights[output, block * pattern.m : (block + 1) * pattern.m]
            kept = np.flatnonzero(cells)
            free = np.flatnonzero(cells == 0)[: pattern.n - len(kept)]
            positions = np.sort(np.concatenate((kept, free)))
            values[output, block] = cells[positions]
            offsets[output, block] = positions - np.arange(pattern.n)
    return values, offsets


def reference_decode(slots: Slots, pattern: Pattern, inputs: int) -> NDArray[np.int8]:
    """Decode block by block."""
    values, offsets = slots
    weights = np.zeros((len(values), inputs), np.int8)
    for output in range(len(values)):
        for block in range(values.shape[1]):
            positions = block * pattern.m + np.arange(pattern.n) + offsets[output, block]
            weights[output, positions] = values[output, block]
    return weights


def best_of(work: Callable[..., Result], *arguments: object) -> tuple[float, Result]:
    """The shortest time of several calls in seconds, and the result."""
    shortest = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = work(*arguments)
        shortest = min(shortest, time.perf_counter() - start)
    return shortest, result


def main(size: Annotated[int, typer.Option(min=REFERENCE_ROWS, help="Outputs and inputs.")] = 4096) -> None:
    """Measure how fast weights pass into the slot format and back, and how much faster than block by block."""
    rng = np.random.default_rng(0)
    table = Table("pattern", title=f"M weights/s at {size} x {size}")
    for heading in ("encode", "reference", "ratio", "decode", "reference", "ratio"):
        table.add_column(heading, justify="right")
    for pattern in map(Pattern.parse, PATTERNS):
        weights = random_weights(size, pattern, rng)
        inputs = weights.shape[1]
        encode_time, slots = best_of(encode_slots, weights, pattern)
        decode_time, decoded = best_of(decode_slots, *slots, pattern, inputs)
        np.testing.assert_array_equal(decoded, weights)

        part = weights[:REFERENCE_ROWS]
        reference_encode_time, part_slots = best_of(reference_encode, part, pattern)
        reference_decode_time, part_decoded = best_of(reference_decode, part_slots, pattern, inputs)
        for ours, theirs in zip((*slots, decoded), (*part_slots, part_decoded), strict=True):
            np.testing.assert_array_equal(ours[:REFERENCE_ROWS], theirs)

        row = []
        for ours_time, reference_time in (
            (encode_time, reference_encode_time),
            (decode_time, reference_decode_time),
        ):
            rate, reference_rate = weights.size / ours_time / 1e6, part.size / reference_time / 1e6
            row += [f"{rate:.0f}", f"{reference_rate:.2f}", f"{rate / reference_rate:.0f}x"]
        table.add_row(str(pattern), *row)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
