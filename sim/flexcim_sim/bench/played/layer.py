"""The cocotb test that runs one packed layer, handed over as files by ``run_layer``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.random import Generator

from flexcim.config.pattern import Pattern
from flexcim.packed.tiling import tile_layer
from flexcim_sim.bench.benches.macro import MacroBench
from flexcim_sim.bench.played.job import LAYER_FILE, LAYER_RESULT_FILE, LAYER_TRACE_FILE, bench_test
from flexcim_sim.bench.stimuli.layer import layer_stimulus, outputs_of_beats


@bench_test
async def layer(bench: MacroBench, rng: Generator) -> None:
    """A layer's whole program; what differs is counted, and left to ``run_layer`` to report."""
    with np.load(Path(LAYER_FILE)) as arrays:
        shape = json.loads(str(arrays["shape"]))
        weights, offsets, activations = arrays["weights"], arrays["offsets"], arrays["activations"]
    tiling = tile_layer(
        bench.config, shape["outputs"], shape["inputs"], Pattern.parse(shape["pattern"]), groups=shape["groups"]
    )
    stimulus = layer_stimulus(tiling, weights, offsets, activations)
    played = await bench.play(stimulus, strict=False, traced=shape["traced"])
    np.savez(
        LAYER_RESULT_FILE,
        outputs=outputs_of_beats(tiling, len(activations), played.payloads),
        cycles=played.cycles,
        predicted=played.predicted,
    )
    traces = {name: trace.to_mapping() for name, trace in played.traces.items()}
    Path(LAYER_TRACE_FILE).write_text(json.dumps(traces))
