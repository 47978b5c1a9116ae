"""What is put into the accelerator: programs with the words of their streams, made by hand or at random."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from flexcim.accelerator.bus_words import run_image, run_words, tile_image, tile_words
from flexcim.accelerator.instructions import AcceleratorProgram, Instruction, LoadTile, Loop, RunTiles
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.pattern import Pattern
from flexcim_sim.bench.stimuli.random import random_beats, random_image

__all__ = ["AcceleratorStimulus", "RandomPrograms"]


@dataclass
class AcceleratorStimulus:
    """A program, and its images in the order in which they are taken.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    instructions : list of Instruction
        The program.
    tiles, runs : list of ndarray of uint8, [words, bytes]
        The tile images and the run images.
    """

    config: AcceleratorConfig
    instructions: list[Instruction] = field(default_factory=list)
    tiles: list[NDArray[np.uint8]] = field(default_factory=list)
    runs: list[NDArray[np.uint8]] = field(default_factory=list)

    @property
    def program(self) -> AcceleratorProgram:
        """The program."""
        return AcceleratorProgram(tuple(self.instructions))

    @property
    def weights(self) -> NDArray[np.uint8]:
        """All words of the weight stream."""
        return np.concatenate([np.zeros((0, self.config.weight_bus // 8), np.uint8), *self.tiles])

    @property
    def activations(self) -> NDArray[np.uint8]:
        """All words of the activation stream."""
        return np.concatenate([np.zeros((0, self.config.activation_bus // 8), np.uint8), *self.runs])


class RandomPrograms:
    """Random legal programs that follow each other on one accelerator: what one leaves in banks and in the activation
    memory, the next may use.

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
        self._rows: list[dict[int, int]] = [{} for _ in range(config.macros)]  # of the tiles in the banks
        self._written = np.zeros(config.activation_memory, np.bool_)

    def program(self, layers: int, max_vectors: int) -> AcceleratorStimulus:
        """Layers of one to three K tiles in random modes, on random macros, some of them in loops.

        Parameters
        ----------
        layers : int
            Accumulations from ``first_k`` to ``last_k``; fewer, but at least one, if the program memory holds no more.
        max_vectors : int
            Most vectors of a run.
        """
        stimulus = AcceleratorStimulus(self._config)
        longest = 1 + 3 * (self._config.macros + 1)  # a loop of three K tiles
        for layer in range(layers):
            if not layer or len(stimulus.program) + longest <= self._config.program_depth:
                self._layer(stimulus, max_vectors)
        last = max(i for i, one in enumerate(stimulus.instructions) if isinstance(one, RunTiles) and one.last_k)
        run = stimulus.instructions[last]
        assert isinstance(run, RunTiles)
        stimulus.instructions[last] = replace(run, end_packet=True)
        return stimulus

    def _layer(self, stimulus: AcceleratorStimulus, max_vectors: int) -> None:
        """Add a layer: the same vectors at each of its K tiles."""
        macro, rng = self._config.macro, self._rng
        pattern, groups = macro.modes[rng.integers(len(macro.modes))]
        k_tiles = int(rng.choice([1, 1, 2, 3]))
        limit = max_vectors if k_tiles == 1 else min(max_vectors, macro.accumulator_depth // groups)
        vectors = int(rng.integers(1, limit + 1))
        chosen = self._subset(range(self._config.macros))
        count = self._loop_count(chosen, k_tiles)
        body = AcceleratorStimulus(self._config)
        for k_tile in range(k_tiles):
            bank = int(rng.integers(macro.banks))
            rows = self._loads(body, chosen, bank, pattern, looped=count > 0)
            run = RunTiles(
                macros=tuple(chosen),
                bank=bank,
                pattern=pattern,
                groups=groups,
                rows=rows if rng.random() < 0.7 else int(rng.integers(1, rows + 1)),
                vectors=vectors,
                beats=0,
                first_k=k_tile == 0,
                last_k=k_tile == k_tiles - 1,
                release=count > 0 or bool(rng.random() < 0.6),
                end_packet=k_tile == k_tiles - 1 and bool(rng.random() < 0.3),
            )
            self._add_run(body, run)
        self._add_body(stimulus, body, count)

    def _subset(self, macros: Iterable[int]) -> list[int]:
        """All macros, or some."""
        everyone = list(macros)
        if self._rng.random() < 0.5:
            return everyone
        size = int(self._rng.integers(1, len(everyone) + 1))
        return sorted(self._rng.choice(everyone, size, replace=False).tolist())

    def _loop_count(self, chosen: list[int], k_tiles: int) -> int:
        """How often a layer is repeated in a loop, 0 for no loop: its banks must be free before, and are afterwards."""
        if self._rng.random() < 0.5 or any(self._rows[macro] for macro in chosen):
            return 0
        return int(self._rng.integers(1, 4))

    def _loads(
        self, stimulus: AcceleratorStimulus, chosen: list[int], bank: int, pattern: Pattern, *, looped: bool
    ) -> int:
        """Load the bank of those macros in which it is free; returns the rows that all have."""
        macro = self._config.macro
        for index in chosen:
            if bank not in self._rows[index]:
                most = macro.rows if looped or self._rng.random() < 0.5 else int(self._rng.integers(1, macro.rows + 1))
                self._rows[index][bank] = most
                words = tile_words(self._config, most)
                stimulus.instructions.append(LoadTile(macro=index, bank=bank, rows=most, words=words))
                stimulus.tiles.append(self._tile(pattern, most))
        return min(self._rows[index][bank] for index in chosen)

    def _tile(self, pattern: Pattern, rows: int) -> NDArray[np.uint8]:
        image = random_image(self._config.macro, self._rng, pattern, rows)
        return tile_image(self._config, image.weights, image.offsets)

    def _add_run(self, stimulus: AcceleratorStimulus, run: RunTiles) -> None:
        """Add a run, with beats from the stream, stored or not, or from the memory."""
        macro, rng = self._config.macro, self._rng
        beats = macro.vector_beats(macro.window(run.pattern, run.groups), run.rows)
        size = run.vectors * beats
        run = replace(run, beats=beats)
        replayable = self._places(size) if size <= self._config.activation_memory else []
        if replayable and rng.random() < 0.6:
            run = replace(run, replay=True, address=int(rng.choice(replayable)))
        else:
            run = replace(run, words=run_words(self._config, run.vectors, beats))
            stimulus.runs.append(self._vectors(run))
            if size <= self._config.activation_memory and rng.random() < 0.6:
                run = replace(run, store=True, address=int(rng.integers(0, self._config.activation_memory - size + 1)))
                self._written[run.address : run.address + size] = True
        stimulus.instructions.append(run)
        if run.release:
            for index in run.macros:
                del self._rows[index][run.bank]

    def _places(self, size: int) -> list[int]:
        """Addresses from which so many beats have been written."""
        sums = np.concatenate([[0], np.cumsum(self._written)])
        return np.flatnonzero(sums[size:] - sums[: len(sums) - size] == size).tolist()

    def _vectors(self, run: RunTiles) -> NDArray[np.uint8]:
        beats = random_beats(self._config.macro, self._rng, run.pattern, run.groups, run.rows, run.vectors)
        return run_image(self._config, beats)

    def _add_body(self, stimulus: AcceleratorStimulus, body: AcceleratorStimulus, count: int) -> None:
        """Add a layer once, or in a loop, with other words each time."""
        if count:
            stimulus.instructions.append(Loop(length=len(body.instructions), count=count))
        stimulus.instructions += body.instructions
        stimulus.tiles += body.tiles
        stimulus.runs += body.runs
        pattern = self._config.macro.patterns[0]
        for _ in range(count - 1):
            for one in body.instructions:
                if isinstance(one, LoadTile):
                    stimulus.tiles.append(self._tile(pattern, one.rows))
                elif isinstance(one, RunTiles) and not one.replay:
                    stimulus.runs.append(self._vectors(one))
