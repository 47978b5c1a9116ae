"""A whole layer on the golden macro: its program, tile by tile."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flexcim.macro.beats import activation_beats
from flexcim.packed.cells import tile_activations
from flexcim.packed.tiling import LayerTiling
from flexcim_sim.golden.macro import GoldenMacro

__all__ = ["layer_outputs"]


def layer_outputs(
    tiling: LayerTiling,
    weights: NDArray[np.int8],
    offsets: NDArray[np.uint8],
    activations: NDArray[np.int8],
) -> NDArray[np.int32]:
    """Multiply vectors by a packed layer.

    Parameters
    ----------
    tiling : LayerTiling
        The layer's tiling.
    weights, offsets : ndarray of int8 and of uint8, [tile, row, sub_macro, column]
        Its packed image.
    activations : ndarray of int8, [V, inputs]
        The vectors.

    Returns
    -------
    ndarray of int32, [V, outputs]
    """
    config, program = tiling.config, tiling.program(len(activations))
    macro = GoldenMacro(config)
    outputs = np.empty((len(activations), tiling.output_tiles * tiling.tile_outputs), np.int32)
    for load in program.load_steps:
        rows = load.command.rows
        macro.load(load.command.payload(), weights[load.tile, :rows], offsets[load.tile, :rows])
    for run in program.run_steps:
        tile, command = tiling.tiles[run.tile], run.command
        vectors = tile_activations(tiling, tile, activations[run.vectors])
        beats = activation_beats(config, command.pattern, command.groups, command.rows, vectors)
        results = macro.run(command.payload(config), beats)
        if results is not None:
            first = tile.output_tile * tiling.tile_outputs
            outputs[run.vectors, first : first + tiling.tile_outputs] = results
    return outputs[:, : tiling.outputs]
