"""A packed layer as a stimulus of the bench, and its outputs from the result beats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flexcim.macro.beats import activation_beats, result_elements
from flexcim.packed.cells import tile_activations
from flexcim.packed.tiling import LayerTiling
from flexcim_sim.bench.stimuli.macro import Image, Stimulus

__all__ = ["layer_stimulus", "outputs_of_beats"]


def layer_stimulus(
    tiling: LayerTiling,
    weights: NDArray[np.int8],
    offsets: NDArray[np.uint8],
    activations: NDArray[np.int8],
) -> Stimulus:
    """The program of a layer with its data.

    Parameters
    ----------
    tiling : LayerTiling
        The layer's tiling.
    weights, offsets : ndarray of int8 and of uint8, [tile, row, sub_macro, column]
        Its packed image.
    activations : ndarray of int8, [V, inputs]
        The vectors.
    """
    config, program = tiling.config, tiling.program(len(activations))
    stimulus = Stimulus(config)
    for load in program.load_steps:
        rows = load.command.rows
        stimulus.add_load(load.command.bank, Image(weights[load.tile, :rows], offsets[load.tile, :rows]))
    for run in program.run_steps:
        command = run.command
        vectors = tile_activations(tiling, tiling.tiles[run.tile], activations[run.vectors])
        beats = activation_beats(config, command.pattern, command.groups, command.rows, vectors)
        stimulus.add_run(command, beats)
    return stimulus


def outputs_of_beats(tiling: LayerTiling, vectors: int, payloads: Sequence[int]) -> NDArray[np.int32]:
    """A layer's outputs, int32 [V, outputs], from all beats of the result stream."""
    elements, _ = result_elements(tiling.config, payloads)
    outputs = np.zeros((vectors, tiling.output_tiles * tiling.tile_outputs), np.int32)
    beats = tiling.config.result_beats(tiling.groups)
    done = 0
    for run in tiling.program(vectors).run_steps:
        if run.command.last_k:
            count = run.command.vectors
            results = elements[done : done + count * beats].reshape(count, -1)[:, : tiling.tile_outputs]
            first = tiling.tiles[run.tile].output_tile * tiling.tile_outputs
            outputs[run.vectors, first : first + tiling.tile_outputs] = results
            done += count * beats
    return outputs[:, : tiling.outputs]
