"""Runs one packed layer on the generated Verilog in a simulator, and compares it with the golden model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flexcim.packed.tiling import LayerTiling
from flexcim_hw.verilog.macro import GeneratedVerilog
from flexcim_sim.bench.ends.trace import StreamTrace
from flexcim_sim.bench.played.job import LAYER_FILE, LAYER_RESULT_FILE, LAYER_TRACE_FILE
from flexcim_sim.bench.run.runner import run_tests
from flexcim_sim.build.simulators import SimulatorError, build
from flexcim_sim.golden.layer import layer_outputs

__all__ = ["LayerRun", "run_layer"]


@dataclass(frozen=True)
class LayerRun:
    """What a layer gave in a simulator.

    Parameters
    ----------
    outputs : ndarray of int32, [V, outputs]
        Its outputs.
    compared, mismatches : int
        Outputs that were compared with the golden model, and those that differ.
    cycles : int
        Measured cycles, from the first accepted beat to the last result.
    predicted : int
        Cycles by the cycle model.
    seconds : float
        Time that the simulation took.
    traces : mapping of str to StreamTrace
        What the pins of each stream showed; nothing unless asked for.
    """

    outputs: NDArray[np.int32]
    compared: int
    mismatches: int
    cycles: int
    predicted: int
    seconds: float
    traces: Mapping[str, StreamTrace] = field(default_factory=dict)


def run_layer(
    verilog: GeneratedVerilog,
    tiling: LayerTiling,
    weights: NDArray[np.int8],
    offsets: NDArray[np.uint8],
    activations: NDArray[np.int8],
    folder: Path,
    *,
    simulator: str = "verilator",
    traced: bool = False,
) -> LayerRun:
    """Run all tiles of a layer at full throughput.

    Parameters
    ----------
    verilog : GeneratedVerilog
        The macro, generated from ``tiling.config``.
    tiling : LayerTiling
        The layer's tiling.
    weights, offsets : ndarray of int8 and of uint8, [tile, row, sub_macro, column]
        Its packed image.
    activations : ndarray of int8, [V, inputs]
        The vectors.
    folder : Path
        Where the simulator's log and files go.
    simulator : str
        One of `flexcim_sim.build.simulators.SIMULATORS`.
    traced : bool
        Whether to record the pins of all streams, which slows the simulation down.

    Raises
    ------
    SimulatorError
        If the simulator is missing or fails, or the macro does not take or give all that it should.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shape = {
        "outputs": tiling.outputs,
        "inputs": tiling.inputs,
        "pattern": str(tiling.pattern),
        "groups": tiling.groups,
        "traced": traced,
    }
    np.savez(folder / LAYER_FILE, shape=json.dumps(shape), weights=weights, offsets=offsets, activations=activations)
    built = build(verilog, simulator)
    (outcome,) = run_tests(built, tiling.config, ("flexcim_sim.bench.played.layer",), folder, seed=0)
    if not outcome.passed:
        raise SimulatorError(f"the layer did not pass through the macro: {outcome.message}")
    with np.load(folder / LAYER_RESULT_FILE) as result:
        outputs: NDArray[np.int32] = result["outputs"]
        cycles, predicted = int(result["cycles"]), int(result["predicted"])
    expected = layer_outputs(tiling, weights, offsets, activations)
    mismatches = int((outputs != expected).sum())
    recorded = json.loads((folder / LAYER_TRACE_FILE).read_text(encoding="utf-8"))
    traces = {name: StreamTrace(**pins) for name, pins in recorded.items()}
    return LayerRun(outputs, outputs.size, mismatches, cycles, predicted, outcome.seconds, traces)
