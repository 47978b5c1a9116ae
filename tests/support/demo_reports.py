"""Made-up reports of the demonstration, for tests of what is made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flexcim.config.pattern import Pattern
from flexcim_sim.bench.ends.trace import StreamTrace
from flexcim_sim.demo.instances import FULL, SMALL
from flexcim_sim.demo.report import (
    LayerReport,
    ModelReport,
    PhaseReport,
    PruningReport,
    Report,
    RtlReport,
    RunReport,
    VectorReport,
)


def layer(name: str, shape: tuple[int, int] = (64, 64), pattern: str = "2:8") -> LayerReport:
    """A layer of 100 cycles, 350 when dense."""
    chosen = Pattern.parse(pattern)
    return LayerReport(
        name=name,
        outputs=shape[0],
        inputs=shape[1],
        n=chosen.n,
        m=chosen.m,
        why="a made-up reason",
        groups=1,
        tiles=3,
        sparsity=chosen.sparsity,
        cycles_model=100,
        cycles_dense_model=350,
    )


def run(cycles: int = 100, **changes: Any) -> RunReport:
    """A run without a fault, but for the changes."""
    good = RunReport(outputs_compared=4096, mismatches=0, cycles_rtl=cycles, cycles_model=cycles)
    return replace(good, **changes)


def pruning(label: str, **changes: Any) -> PruningReport:
    """A model that was pruned in some way."""
    made = PruningReport(
        label=label,
        method="uniform",
        score="wanda",
        update="none",
        sparsity=0.625,
        bpb_pruned=1.75,
        bpb_int8=1.7654,
        cycles_model=1200,
        cycles_dense_model=2400,
        text="was the word",
    )
    return replace(made, **changes)


def trace(valid: str, ready: str, payload: str) -> StreamTrace:
    """Pins from a digit for each cycle; the payload is as wide as one."""
    return StreamTrace([level == "1" for level in valid], [level == "1" for level in ready], list(payload))


def vector(**changes: Any) -> VectorReport:
    """A vector that passes in ten cycles."""
    made = VectorReport(
        model="llama",
        layer="model.layers.0.mlp.up_proj",
        simulator="icarus",
        preset="flexcim",
        cells=SMALL.cells,
        pattern="2:8",
        run=run(8, outputs_compared=2),
        inputs=[3, -4],
        results=[-5012, 77],
        traces={
            "load": trace("1000000000", "1011111111", "1xxxxxxxxx"),
            "weights": trace("1110000000", "0110000000", "001xxxxxxx"),
            "run": trace("1000000000", "1111111111", "1xxxxxxxxx"),
            "activations": trace("1100000000", "0100000000", "11xxxxxxxx"),
            "results": trace("0000000100", "1111111111", "xxxxxxx1xx"),
        },
        phases=(
            PhaseReport(name="weights", first=1, last=2, what="2 beats"),
            PhaseReport(name="slices", first=3, last=6, what="the array computes"),
            PhaseReport(name="results", first=7, last=7, what="1 beat"),
        ),
    )
    return replace(made, **changes)


def made_up(sparse: RunReport | None = None, dense: RunReport | None = None, **changes: Any) -> Report:
    """A report on two models, of which one layer was simulated."""
    layers = (layer("model.layers.0.mlp.up_proj"), layer("model.layers.1.mlp.up_proj", pattern="2:4"))
    first = ModelReport(
        name="llama",
        sparsity_target=0.6,
        bpb_dense=1.5,
        text_dense="God made the heaven",
        default=pruning("FLOW (default)"),
        published=pruning("published method", bpb_pruned=4.25, bpb_int8=4.5, sparsity=0.65, text="t ther t"),
        layers=layers,
    )
    entry = RtlReport(
        model="llama",
        layer="model.layers.0.mlp.up_proj",
        simulator="verilator",
        preset="flexcim",
        cells=FULL.cells,
        pattern="2:8",
        limit=4.0,
        vectors=64,
        sparse=sparse or run(100),
        dense=dense or run(350),
    )
    made = Report(
        seed=3,
        cells=FULL.cells,
        vectors=64,
        prompt="In the beginning",
        evaluated=49152,
        models=[first, replace(first, name="mamba2", layers=layers[:1])],
        rtl=[entry],
        vector=vector(),
        seconds=12.34,
    )
    return replace(made, **changes)
