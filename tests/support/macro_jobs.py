"""Work for a macro: what its streams are offered, layers among it, and what has to come out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flexcim.config.macro import MacroConfig
from flexcim.macro.beats import activation_beats, activation_payloads, result_elements, weight_beats, weight_payloads
from flexcim.macro.commands import Load, Run
from flexcim.macro.cycles import program_cycles
from flexcim.macro.program import LoadStep, Program, RunStep
from flexcim.packed.cells import pack_layer, tile_activations
from flexcim.packed.tiling import LayerTiling
from tests.support.sparse_weights import random_weights

STREAMS = ("load", "run", "weights", "activations")


@dataclass
class Job:
    """Commands, and the payloads of each stream that they need."""

    config: MacroConfig
    steps: list[LoadStep | RunStep] = field(default_factory=list)
    payloads: dict[str, list[int]] = field(default_factory=dict)
    beats: int = 0

    def __post_init__(self) -> None:
        names = (*STREAMS, "constants") if self.config.requantizer else STREAMS
        self.payloads = {name: [] for name in names}

    def load(self, command: Load, weights: NDArray[np.int8], offsets: NDArray[np.uint8], constants: int = 0) -> None:
        """Fill a bank with the cells [rows, S, C]; the caller brings the constants of so many outputs."""
        self.steps.append(LoadStep(command, 0, constants))
        self.payloads["load"].append(command.payload())
        self.payloads["weights"] += weight_payloads(self.config, *weight_beats(self.config, weights, offsets))

    def run(self, command: Run, activations: NDArray[np.int8]) -> None:
        """Multiply vectors [V, rows * w]."""
        self.steps.append(RunStep(command, 0))
        self.payloads["run"].append(command.payload(self.config))
        beats = activation_beats(self.config, command.pattern, command.groups, command.rows, activations)
        self.payloads["activations"] += activation_payloads(self.config, beats)
        if command.last_k:
            self.beats += command.vectors * self.config.result_beats(command.groups)

    @property
    def cycles(self) -> int:
        """What the cycle model says."""
        return program_cycles(self.config, Program(tuple(self.steps))).cycles


@dataclass
class Layer:
    """A layer on a macro: its place in a job, and its product."""

    tiling: LayerTiling
    weights: NDArray[np.int8]
    activations: NDArray[np.int8]

    @classmethod
    def random(cls, config, rng, pattern, groups, outputs, inputs, vectors):
        weights = random_weights(rng, outputs, inputs, pattern, config.weight_bits)
        limit = 1 << (config.activation_bits - 1)
        activations = rng.integers(-limit, limit, size=(vectors, inputs), dtype=np.int8)
        return cls(LayerTiling(config, outputs, inputs, pattern, groups, "a test"), weights, activations)

    @property
    def product(self):
        return self.activations.astype(np.int64) @ self.weights.T.astype(np.int64)

    def append_to(self, job):
        tiling = self.tiling
        packed = pack_layer(tiling, self.weights)
        for step in tiling.program(len(self.activations)).steps:
            if isinstance(step, LoadStep):
                weights, offsets = (cells[step.tile][: step.command.rows] for cells in packed)
                job.load(step.command, weights, offsets)
            else:
                part = tile_activations(tiling, tiling.tiles[step.tile], self.activations[step.vectors])
                job.run(step.command, part)

    def assemble(self, elements):
        """The layer's outputs from the elements of its result beats, which are taken from the front."""
        tiling = self.tiling
        sums = np.zeros((len(self.activations), tiling.output_tiles * tiling.tile_outputs), np.int64)
        for step in tiling.program(len(self.activations)).run_steps:
            if step.command.last_k:
                beats = step.command.vectors * tiling.config.result_beats(tiling.groups)
                part = elements[:beats].reshape(step.command.vectors, -1)
                elements = elements[beats:]
                assert not part[:, tiling.tile_outputs :].any()
                first = tiling.tiles[step.tile].output_tile * tiling.tile_outputs
                sums[step.vectors, first : first + tiling.tile_outputs] = part[:, : tiling.tile_outputs]
        assert not sums[:, tiling.outputs :].any()
        return sums[:, : tiling.outputs], elements


def random_layers(config, rng):
    """A layer for each mode: several tiles both ways, and remainders at each edge."""
    for pattern, groups in config.modes:
        outputs = config.tile_outputs(groups) + int(rng.integers(1, config.columns + 1))
        inputs = config.tile_inputs(pattern, groups) + int(rng.integers(1, config.window(pattern, groups) + 1))
        vectors = int(rng.integers(1, 3 + config.accumulator_depth // groups))
        yield Layer.random(config, rng, pattern, groups, outputs, inputs, vectors)


def check_results(config, layers, payloads):
    """The result beats are those of the layers, one after the other, whole and equal to the integer matrix product."""
    elements, last = result_elements(config, payloads)
    per_vector = [
        config.result_beats(layer.tiling.groups)
        for layer in layers
        for _ in range(layer.tiling.output_tiles * len(layer.activations))
    ]
    assert np.flatnonzero(last).tolist() == (np.cumsum(per_vector) - 1).tolist()
    for layer in layers:
        sums, elements = layer.assemble(elements)
        assert (sums == layer.product).all()
    assert len(elements) == 0
