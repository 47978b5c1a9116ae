"""Playing a feeder of the accelerator: instructions and words go in, its macros take commands and beats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.simulation import Sink, Source, exchange_all, simulate

__all__ = ["Played", "play_feeder"]


@dataclass
class Played:
    """What a feeder did: its far ends, and idle, stalled and error of each cycle."""

    feeder: Any
    instructions: Source
    words: Source
    commands: list[Sink]
    beats: list[Sink]
    idle: list[int] = field(default_factory=list)
    stalled: list[int] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)


def play_feeder(
    feeder: Any,
    inputs: Any,
    outputs: tuple[Sequence[Any], Sequence[Any]],
    cycles: int,
    pause: Callable[[], bool] = lambda: False,
    halt_from: int | None = None,
) -> Played:
    """Drive a feeder for some cycles.

    Parameters
    ----------
    feeder : WeightFeeder or ActivationFeeder
        The feeder.
    inputs : object
        Its ``instructions`` and ``words``.
    outputs : tuple of two sequences
        The feeder's streams of commands and of beats, one for each macro.
    cycles : int
        How many cycles.
    pause : callable
        Whether a far end pauses, asked by each in each cycle.
    halt_from : int, optional
        The cycle from which ``halt`` is set. It acts from the next cycle on, as the core's does.
    """
    commands, beats = outputs
    played = Played(
        feeder,
        Source(feeder.instructions, inputs.instructions, pause),
        Source(feeder.words, inputs.words, pause),
        [Sink(stream, pause) for stream in commands],
        [Sink(stream, pause) for stream in beats],
    )

    async def bench(ctx: Any) -> None:
        def look(cycle: int) -> None:
            played.idle.append(ctx.get(feeder.idle))
            played.stalled.append(ctx.get(feeder.stalled))
            played.errors.append(ctx.get(feeder.error))
            ctx.set(feeder.halt, halt_from is not None and cycle + 1 >= halt_from)

        ctx.set(feeder.halt, halt_from == 0)
        ends: list[Sink | Source] = [played.instructions, played.words, *played.commands, *played.beats]
        await exchange_all(ctx, ends, cycles, look)

    simulate(feeder, bench)
    return played
