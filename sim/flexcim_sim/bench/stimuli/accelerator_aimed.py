"""Random programs for an accelerator that aim at crosses which have not been seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.random import Generator

from flexcim.accelerator.bus_words import run_image, run_words, tile_image, tile_words
from flexcim.accelerator.instructions import LoadTile, RunTiles
from flexcim.accelerator.stream_cycles import NextCycle, stall_pattern
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.pattern import Pattern
from flexcim_sim.bench.coverage.model import Cross
from flexcim_sim.bench.stimuli.accelerator import AcceleratorStimulus
from flexcim_sim.bench.stimuli.aimed import Aim, choose_aims
from flexcim_sim.bench.stimuli.random import random_beats, random_image

__all__ = ["AimedPrograms"]

_LAYERS = 8
"""Accumulations of one program, if the program memory holds them."""


class AimedPrograms:
    """Programs that follow each other on one accelerator, each of which leaves all banks free.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator, after a reset.
    rng : Generator
        Where chance comes from.
    """

    def __init__(self, config: AcceleratorConfig, rng: Generator) -> None:
        self._config = config
        self._rng = rng
        self._written = 0  # beats of the activation memory that hold something, from the first on

    def program(self, missing: Sequence[Cross]) -> tuple[AcceleratorStimulus, dict[str, NextCycle]]:
        """A program that can hit some of what is missing, and when the far ends of the streams go.

        Whether it hits is for the monitor to see: pauses may fall where nothing waits.
        """
        stall, aims = choose_aims(self._config, missing, self._rng, _LAYERS)
        stimulus = AcceleratorStimulus(self._config)
        if self._config.activation_memory and not self._written:
            self._fill_memory(stimulus)
        for index, aim in enumerate(aims):
            length = len(aim.tiles) * (self._config.macros + 1)
            if not index or len(stimulus.program) + length <= self._config.program_depth:
                self._add_accumulation(stimulus, aim)
        last = stimulus.instructions[-1]
        assert isinstance(last, RunTiles)
        stimulus.instructions[-1] = replace(last, end_packet=True)
        return stimulus, self._pauses(stall)

    def _fill_memory(self, stimulus: AcceleratorStimulus) -> None:
        """Store as much as fits, for others to replay."""
        macro, memory = self._config.macro, self._config.activation_memory
        pattern, groups = macro.modes[0]
        beats = macro.vector_beats(macro.window(pattern, groups), 1)
        if beats <= memory:
            self._load(stimulus, 0, 0, pattern, 1)
            run = RunTiles(
                macros=(0,),
                bank=0,
                pattern=pattern,
                groups=groups,
                rows=1,
                vectors=memory // beats,
                beats=beats,
                store=True,
            )
            self._add_run(stimulus, run)
            self._written = memory // beats * beats

    def _add_accumulation(self, stimulus: AcceleratorStimulus, aim: Aim) -> None:
        """Load each K tile into some macros, and run it there."""
        config, macro, rng = self._config, self._config.macro, self._rng
        rows = int(rng.integers(1, min(macro.rows, 4) + 1)) if rng.random() < 0.7 else macro.rows
        beats = macro.vector_beats(macro.window(aim.pattern, aim.groups), rows)
        size = aim.vectors * beats
        chosen = sorted(rng.choice(config.macros, rng.integers(1, config.macros + 1), replace=False).tolist())
        for tile, wanted in enumerate(aim.tiles):
            bank = int(wanted.get("bank", rng.integers(macro.banks)))
            for index in chosen:
                self._load(stimulus, index, bank, aim.pattern, rows)
            source = wanted.get("source", "stream")
            replay = source == "replay" and size <= self._written
            store = source == "store" and size <= config.activation_memory
            room = self._written if replay else config.activation_memory if store else size
            run = RunTiles(
                macros=tuple(chosen),
                bank=bank,
                pattern=aim.pattern,
                groups=aim.groups,
                rows=rows,
                vectors=aim.vectors,
                beats=beats,
                first_k=tile == 0,
                last_k=tile == len(aim.tiles) - 1,
                replay=replay,
                store=store,
                address=int(rng.integers(room - size + 1)),
            )
            self._add_run(stimulus, run)

    def _load(self, stimulus: AcceleratorStimulus, macro: int, bank: int, pattern: Pattern, rows: int) -> None:
        config = self._config
        stimulus.instructions.append(LoadTile(macro=macro, bank=bank, rows=rows, words=tile_words(config, rows)))
        image = random_image(config.macro, self._rng, pattern, rows)
        stimulus.tiles.append(tile_image(config, image.weights, image.offsets))

    def _add_run(self, stimulus: AcceleratorStimulus, run: RunTiles) -> None:
        """Add a run, and its image unless it replays."""
        config = self._config
        if not run.replay:
            run = replace(run, words=run_words(config, run.vectors, run.beats))
            vectors = random_beats(config.macro, self._rng, run.pattern, run.groups, run.rows, run.vectors)
            stimulus.runs.append(run_image(config, vectors))
        stimulus.instructions.append(run)

    def _pauses(self, stall: str) -> dict[str, NextCycle]:
        """Pauses of the streams that are meant."""
        rng, macro = self._rng, self._config.macro
        streams = ("weights", "activations", "results")
        chosen = {"none": [], "several": [name for name in streams if rng.random() < 0.8]}.get(stall, [stall])
        # Long enough for runs without results to pass while results of the run before still wait.
        longest = 4 * max(map(macro.issue_cycles, macro.patterns)) + 8
        goes = {}
        for name in chosen:
            if rng.random() < 0.5:
                spans = rng.integers(1, longest + 1, 40)
                goes[name] = stall_pattern(np.repeat(np.arange(40) % 2 == 0, spans).tolist())
            else:
                share = rng.choice([0.3, 0.7, 0.9])
                goes[name] = stall_pattern([True, *(rng.random(400) >= share).tolist()])
        return goes
