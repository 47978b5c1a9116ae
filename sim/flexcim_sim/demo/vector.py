"""One vector through one tile: a part of a real layer runs on a small macro, and its pins are recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.packed.cells import pack_layer
from flexcim.packed.tiling import LayerTiling, tile_layer
from flexcim_sim.bench.ends.trace import StreamTrace
from flexcim_sim.demo.pruning import LayerSample
from flexcim_sim.demo.report import PhaseReport, VectorReport
from flexcim_sim.demo.simulation import SimulationJob, run_sample

__all__ = ["first_tile", "phases_of", "record_vector"]

_AFTER = 2
"""Cycles that are shown after the last result, so that its end is seen."""


def first_tile(sample: LayerSample, config: MacroConfig) -> tuple[LayerSample, LayerTiling]:
    """The layer's first tile on a macro and its first vector, as a layer of its own that is one tile."""
    pattern, (outputs, inputs) = sample.packed.tiling.pattern, sample.weights.shape
    whole = tile_layer(config, outputs, inputs, pattern, vectors=1)
    outputs = min(whole.tile_outputs, outputs)
    inputs = min(whole.tiles[0].rows * config.window(pattern, whole.groups), inputs)
    part = LayerSample(
        packed=sample.packed, weights=sample.weights[:outputs, :inputs], activations=sample.activations[:1, :inputs]
    )
    return part, tile_layer(config, outputs, inputs, pattern, groups=whole.groups)


def record_vector(model: str, job: SimulationJob) -> VectorReport:
    """Run the first vector of a layer through its first tile, and say when what of it happened at the pins.

    Parameters
    ----------
    model : str
        Name of the model.
    job : SimulationJob
        The layer, the macro, and where the simulator's log goes.
    """
    part, tiling = first_tile(job.sample, job.instance.config)
    report, run = run_sample(replace(job, sample=part), tiling, pack_layer(tiling, part.weights), traced=True)
    traces = {} if run is None else _trimmed(run.traces)
    return VectorReport(
        model=model,
        layer=part.packed.name,
        simulator=job.instance.simulator,
        preset=job.instance.preset,
        cells=job.instance.cells,
        pattern=str(tiling.pattern),
        run=report,
        inputs=part.activations[0].tolist(),
        results=[] if run is None else run.outputs[0].tolist(),
        traces=traces,
        phases=phases_of(tiling, traces) if traces else (),
    )


def _trimmed(traces: Mapping[str, StreamTrace]) -> dict[str, StreamTrace]:
    """The traces from the first command taken to shortly after the last result; nothing if none came."""
    results = traces["results"].beats
    if not results:
        return {}
    first, last = min(traces["load"].beats + traces["run"].beats), results[-1] + _AFTER
    part = slice(first, last + 1)
    return {
        name: StreamTrace(trace.valid[part], trace.ready[part], trace.payload[part]) for name, trace in traces.items()
    }


def phases_of(tiling: LayerTiling, traces: Mapping[str, StreamTrace]) -> tuple[PhaseReport, ...]:
    """The way of the only vector, from what its pins showed (docs/architecture.md, section 3.3).

    The pins show when beats moved. The vector starts in the cycle after its last beat and its tile's last weights, and
    is issued in the N cycles behind that; its first result is on the pins when its latency is over.

    Parameters
    ----------
    tiling : LayerTiling
        A layer of one tile.
    traces : mapping of str to StreamTrace
        What the pins showed while one vector passed.
    """
    config, pattern = tiling.config, tiling.pattern
    load, run = traces["load"].beats, traces["run"].beats
    weights, inputs, results = (traces[name].beats for name in ("weights", "activations", "results"))
    issue = config.issue_cycles(pattern)
    start = max(weights[-1], inputs[-1]) + 1
    return (
        PhaseReport(
            name="commands",
            first=min(load + run),
            last=max(load + run),
            what=f"load fills a bank with the tile's {tiling.tiles[0].rows} rows, run multiplies one vector by it",
        ),
        PhaseReport(
            name="weights",
            first=weights[0],
            last=weights[-1],
            what=f"{len(weights)} beats of {config.weight_port} cells, a weight and its offset each",
        ),
        PhaseReport(
            name="vector",
            first=inputs[0],
            last=inputs[-1],
            what=f"{_count(len(inputs), 'beat')} with the vector's {tiling.inputs} activations",
        ),
        PhaseReport(
            name="start",
            first=start,
            last=start,
            what="vector and weights are in: the buffer's halves change places",
        ),
        PhaseReport(
            name="slices",
            first=start + 1,
            last=start + issue,
            what=f"the array computes: {config.activation_bits} activation bits, {config.bits_per_cycle} a cycle"
            + _phases(config, pattern),
        ),
        PhaseReport(
            name="latency",
            first=start + issue + 1,
            last=results[0] - 1,
            what=f"adder trees and accumulator: the first result comes {results[0] - start - issue} cycles after the "
            f"last slice",
        ),
        PhaseReport(
            name="results",
            first=results[0],
            last=results[-1],
            what=f"{_count(len(results), 'beat')} with the {tiling.outputs} sums of 32 bits",
        ),
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _phases(config: MacroConfig, pattern: Pattern) -> str:
    phases = config.issue_cycles(pattern) * config.bits_per_cycle // config.activation_bits
    return f", in {phases} phases each" if phases > 1 else ""
