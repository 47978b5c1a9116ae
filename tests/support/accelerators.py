"""Small accelerators, and the core of one in Amaranth's simulator, for the tests around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexcim.accelerator.instructions import AcceleratorProgram, RunTiles
from flexcim.accelerator.stream_cycles import NextCycle
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import MacroConfig
from flexcim_hw.accelerator.accelerator import AcceleratorCore
from flexcim_sim.bench.stimuli.accelerator import AcceleratorStimulus
from tests.support.simulation import CONFIGS, simulate

__all__ = ["ACCELERATORS", "CorePlayed", "play", "program_stimuli"]

_SMALL = MacroConfig.from_mapping({"rows": 4, "columns": 4, "patterns": ["1:1", "4:5", "2:4", "4:8", "1:4"]})

ACCELERATORS: dict[str, AcceleratorConfig] = {
    "one macro": AcceleratorConfig(macro=_SMALL, activation_memory=64, program_depth=64),
    "three macros, narrow buses": AcceleratorConfig(
        macro=_SMALL,
        macros=3,
        weight_bus=32,
        activation_bus=64,
        result_bus=32,
        activation_memory=48,
        program_depth=64,
    ),
    "two macros, odd beats, no memory": AcceleratorConfig(
        macro=CONFIGS["two bits, wide windows"],
        macros=2,
        weight_bus=128,
        activation_bus=32,
        result_bus=1024,
        activation_memory=0,
        program_depth=64,
    ),
    "four macros, wide buses": AcceleratorConfig(
        macro=CONFIGS["serial"],
        macros=4,
        weight_bus=1024,
        activation_bus=1024,
        result_bus=64,
        activation_memory=31,
        program_depth=64,
        register_bus="wishbone",
    ),
    "one bank, parallel": AcceleratorConfig(
        macro=CONFIGS["three lanes, parallel"],
        macros=2,
        weight_bus=64,
        activation_bus=32,
        result_bus=128,
        activation_memory=40,
        program_depth=64,
    ),
}
"""Small instances that differ in all: macros, buses narrower and wider than their beats, memories, the macro itself."""


_LATE = 100
"""Cycles after an error in which results that had been computed may still leave."""


def program_stimuli(
    config: AcceleratorConfig,
    programs: Sequence[AcceleratorProgram],
    weights: NDArray[np.uint8],
    activations: NDArray[np.uint8],
) -> list[AcceleratorStimulus]:
    """Programs, each with the words that it takes of two streams."""
    made = []
    for program in programs:
        words = {"weights": 0, "activations": 0}
        for one in program.carried_out():
            words["activations" if isinstance(one, RunTiles) else "weights"] += one.words
        stimulus = AcceleratorStimulus(config, list(program.instructions))
        stimulus.tiles, weights = [weights[: words["weights"]]], weights[words["weights"] :]
        stimulus.runs, activations = [activations[: words["activations"]]], activations[words["activations"] :]
        made.append(stimulus)
    return made


@dataclass
class CorePlayed:
    """What a core did with one program.

    Parameters
    ----------
    data : list of int
        The result words.
    keep, last : list
        Their ``tkeep`` and ``tlast``.
    cycle : list of int
        When each was taken, from the start on.
    counters : dict of str to int
        The counters in the end.
    done : bool
        Whether it has ended.
    interval : int or None
        Cycles that the core says the program takes, where its streams flow freely.
    error, error_macro, error_macro_kind : int
        The error in the end.
    """

    data: list[int] = field(default_factory=list)
    keep: list[int] = field(default_factory=list)
    last: list[bool] = field(default_factory=list)
    cycle: list[int] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    done: bool = False
    interval: int | None = None
    error: int = 0
    error_macro: int = 0
    error_macro_kind: int = 0

    @property
    def results(self) -> NDArray[np.uint8]:
        """The bytes that ``tkeep`` marks."""
        parts = [
            word.to_bytes(128, "little")[: keep.bit_length()] for word, keep in zip(self.data, self.keep, strict=True)
        ]
        return np.frombuffer(b"".join(parts), np.uint8)

    @property
    def packets(self) -> list[int]:
        """Where in them each packet ends."""
        sizes = np.cumsum([keep.bit_count() for keep in self.keep])
        return [int(size) for size, last in zip(sizes, self.last, strict=True) if last]


class _Source:
    """Words of an input bus; the far end goes as its pattern says, counted from the program's start."""

    def __init__(self, core: AcceleratorCore, name: str, words: NDArray[np.uint8], goes: NextCycle) -> None:
        self.words = [int.from_bytes(word.tobytes(), "little") for word in words]
        self.stream = getattr(core, name)
        self.lasts: set[int] = set()
        self.goes = goes
        self.place = 0
        self.shown = False

    def offer(self, ctx: Any, cycle: int) -> None:
        if not self.shown and self.place < len(self.words):
            self.shown = self.goes(cycle) == cycle
        ctx.set(self.stream.valid, self.shown)
        if self.shown:
            ctx.set(self.stream.payload, {"data": self.words[self.place], "last": self.place in self.lasts})

    def take(self, ctx: Any) -> None:
        if self.shown and ctx.get(self.stream.ready):
            self.place += 1
            self.shown = False


def play(
    config: AcceleratorConfig,
    stimuli: list[AcceleratorStimulus],
    limit: int,
    stalls: Mapping[str, NextCycle] | None = None,
    lasts: Mapping[str, set[int]] | None = None,
    program: NDArray[np.uint32] | None = None,
) -> list[CorePlayed]:
    """Let a core carry out programs, one after the other.

    Parameters
    ----------
    config, stimuli : AcceleratorConfig, list of AcceleratorStimulus
        The core, and what it gets.
    limit : int
        Cycles after which a program must have ended, or is given up.
    stalls : mapping of str to NextCycle, optional
        When the far ends of ``weights``, ``activations``, ``results`` go.
    lasts : mapping of str to set of int, optional
        Words of the input streams that carry ``tlast``.
    program : ndarray of uint32, optional
        The program memory's image, if it is not that of the stimulus; it may leave words.
    """
    core = AcceleratorCore(config)
    goes = {name: (stalls or {}).get(name, lambda cycle: cycle) for name in ("weights", "activations", "results")}
    played: list[CorePlayed] = []

    async def bench(ctx: Any) -> None:
        for stimulus in stimuli:
            words = stimulus.program.words(config.macro) if program is None else program
            for address, word in enumerate(words.reshape(-1).tolist()):
                ctx.set(core.control.write, 1)
                ctx.set(core.control.write_address, address)
                ctx.set(core.control.write_data, word)
                await ctx.tick()
            ctx.set(core.control.write, 0)
            sources = [_Source(core, name, getattr(stimulus, name), goes[name]) for name in ("weights", "activations")]
            for source, name in zip(sources, ("weights", "activations"), strict=True):
                source.lasts = (lasts or {}).get(name, set())
            ctx.set(core.control.start, 1)
            played.append(await _carry_out(ctx, core, sources, goes["results"], limit))
            if not stalls and program is None:
                played[-1].interval = core.interval(stimulus.program)
            for source in sources:
                assert program is not None or source.place == len(source.words)

    simulate(core, bench)
    return played


async def _carry_out(
    ctx: Any, core: AcceleratorCore, sources: list[_Source], goes: NextCycle, limit: int
) -> CorePlayed:
    played, held = CorePlayed(), None
    late = _LATE
    for cycle in range(limit):
        for source in sources:
            source.offer(ctx, cycle)
        ready = goes(cycle) == cycle
        ctx.set(core.results.ready, ready)
        for source in sources:
            source.take(ctx)
        shown = None
        if ctx.get(core.results.valid):
            payload = ctx.get(core.results.payload)
            shown = payload.data, payload.keep, payload.last
        assert held is None or shown == held, "a word that was not taken must stay"
        held = None if ready else shown
        if ready and shown:
            played.data.append(shown[0])
            played.keep.append(shown[1])
            played.last.append(bool(shown[2]))
            played.cycle.append(cycle)
        done = ctx.get(core.control.done)
        if not ctx.get(core.error):
            late = cycle + _LATE
        await ctx.tick()
        ctx.set(core.control.start, 0)
        if done or cycle == late:
            played.done = bool(done)
            break
    names = ("cycles", "weight_stalls", "activation_stalls", "result_stalls")
    played.counters = {name: ctx.get(getattr(core, name)) for name in names}
    played.error, played.error_macro = ctx.get(core.error), ctx.get(core.error_macro)
    played.error_macro_kind = ctx.get(core.error_macro_kind)
    return played
