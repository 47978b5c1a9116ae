"""The bench's part of the demonstration: a layer's real integers pass through simulated Verilog."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flexcim.config.pattern import Pattern
from flexcim.packed.cells import pack_layer
from flexcim.packed.tiling import LayerTiling, tile_layer
from flexcim_hw.verilog.macro import GeneratedVerilog
from flexcim_sim.bench.run.layer import LayerRun, run_layer
from flexcim_sim.build.simulators import SimulatorError
from flexcim_sim.demo.instances import Instance
from flexcim_sim.demo.pruning import LayerSample
from flexcim_sim.demo.report import RunReport

__all__ = ["SimulationJob", "run_sample", "simulate"]


@dataclass(frozen=True, kw_only=True)
class SimulationJob:
    """A layer to run on a macro.

    Parameters
    ----------
    sample : LayerSample
        The layer.
    instance : Instance
        The macro. If its menu lacks the layer's pattern, the layer runs as a dense one, its zeros like other weights.
    verilog : GeneratedVerilog
        What was generated for the macro.
    folder : Path
        Where the simulator's log goes.
    """

    sample: LayerSample
    instance: Instance
    verilog: GeneratedVerilog
    folder: Path


def simulate(job: SimulationJob) -> RunReport:
    """Run all tiles of a layer, and compare with the golden model and with the product of the pruned matrix."""
    sample, config = job.sample, job.instance.config
    tiling, cells = sample.packed.tiling, (sample.packed.weights, sample.packed.offsets)
    if tiling.config != config:
        pattern = tiling.pattern if tiling.pattern in config.patterns else Pattern(1, 1)
        tiling = tile_layer(config, tiling.outputs, tiling.inputs, pattern, vectors=len(sample.activations))
        cells = pack_layer(tiling, sample.weights)
    return run_sample(job, tiling, cells)[0]


def run_sample(
    job: SimulationJob,
    tiling: LayerTiling,
    cells: tuple[NDArray[np.int8], NDArray[np.uint8]],
    *,
    traced: bool = False,
) -> tuple[RunReport, LayerRun | None]:
    """Run a job's layer, as it lies on the macro.

    A macro that gives too few results, or breaks the contract at its ports, is a finding for the report, no error: that
    the simulator can be built is known by now.

    Parameters
    ----------
    job : SimulationJob
        The job.
    tiling : LayerTiling
        How its layer lies on the macro.
    cells : tuple of ndarray
        Weights and offsets of the packed image.
    traced : bool
        Whether to record the pins.

    Returns
    -------
    report : RunReport
        How the run compares with the golden model, the plain product and the cycle model.
    run : LayerRun or None
        What came out; None if the macro did not get that far.
    """
    sample, simulator = job.sample, job.instance.simulator
    try:
        run = run_layer(job.verilog, tiling, *cells, sample.activations, job.folder, simulator=simulator, traced=traced)
    except SimulatorError as error:
        return RunReport(outputs_compared=0, mismatches=0, cycles_rtl=0, cycles_model=0, message=str(error)), None
    # The golden model reads the packed image; this product does not, so an error in packing would show as well.
    product = sample.activations.astype(np.int32) @ sample.weights.astype(np.int32).T
    wrong = int((run.outputs != product).sum())
    report = RunReport(
        outputs_compared=run.compared,
        mismatches=run.mismatches,
        cycles_rtl=run.cycles,
        cycles_model=run.predicted,
        message=f"{wrong} of {product.size} outputs differ from the product with the pruned weights" if wrong else "",
    )
    return report, run
