#!/usr/bin/env python3
"""Measure on simulated RTL how close each pattern comes to m/n times the dense instance.

Cycles count from the first accepted beat to the last result. Every output is compared with the golden model on the way.

    python scripts/benchmark_throughput.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from flexcim.config.macro import MacroConfig, preset
from flexcim.config.pattern import Pattern
from flexcim.packed.cells import pack_layer
from flexcim.packed.tiling import tile_layer
from flexcim_hw.verilog.macro import GeneratedVerilog, generate
from flexcim_sim.bench.run.layer import LayerRun, run_layer

VECTORS = 64
TARGETS = {8: 0.95, 32: 0.99}
"""Tiles, and the share of the limit that a pattern must reach on them."""


@dataclass(frozen=True)
class Measurement:
    """A pattern on so many tiles of 64 vectors.

    Parameters
    ----------
    pattern : Pattern
        The pattern, at G = 1.
    tiles : int
        Tiles, each of its own outputs.
    cycles, dense_cycles : int
        Of the pattern on the default instance, and of 1:1 on the dense one, on as many tiles.
    """

    pattern: Pattern
    tiles: int
    cycles: int
    dense_cycles: int

    @property
    def speedup(self) -> float:
        """Inputs times outputs per cycle, relative to the dense instance: a tile of n:m covers m/n times the inputs."""
        return self.dense_cycles / self.cycles / self.pattern.density

    @property
    def share(self) -> float:
        """The share of the limit, m/n."""
        return self.speedup * self.pattern.density

    @property
    def busy(self) -> float:
        """The share of the cycles in which the array is issuing a slice."""
        return self.tiles * VECTORS * preset("flexcim").issue_cycles(self.pattern) / self.cycles

    @property
    def reached(self) -> bool:
        """Whether the share is what is asked for."""
        return self.share >= TARGETS[self.tiles]


def measure_layer(config: MacroConfig, verilog: GeneratedVerilog, pattern: Pattern, tiles: int, seed: int) -> LayerRun:
    """Run a random layer of ``tiles`` full tiles at G = 1 under Verilator."""
    rng = np.random.default_rng(seed)
    inputs, outputs = config.tile_inputs(pattern, 1), tiles * config.columns
    blocks = np.zeros((outputs, inputs // pattern.m, pattern.m), np.int8)
    blocks[:, :, : pattern.n] = rng.integers(-128, 128, (*blocks.shape[:2], pattern.n))
    weights = rng.permuted(blocks, axis=2).reshape(outputs, inputs)
    activations = rng.integers(-128, 128, (VECTORS, inputs), dtype=np.int8)
    tiling = tile_layer(config, outputs, inputs, pattern, groups=1, vectors=VECTORS)
    with TemporaryDirectory() as folder:
        run = run_layer(verilog, tiling, *pack_layer(tiling, weights), activations, Path(folder))
    if run.mismatches or run.cycles != run.predicted:
        raise SystemExit(
            f"{pattern} on {tiles} tiles: {run.mismatches} outputs differ, "
            f"{run.cycles} cycles instead of {run.predicted}"
        )
    return run


def measurements(seed: int) -> Iterator[Measurement]:
    """Measure every pattern of the default menu on each number of tiles."""
    sparse, dense = preset("flexcim"), preset("dense")
    sparse_verilog, dense_verilog = generate(sparse), generate(dense)
    for tiles in TARGETS:
        dense_run = measure_layer(dense, dense_verilog, Pattern(1, 1), tiles, seed)
        for pattern in sparse.patterns:
            run = measure_layer(sparse, sparse_verilog, pattern, tiles, seed)
            yield Measurement(pattern, tiles, run.cycles, dense_run.cycles)


def main(seed: Annotated[int, typer.Option(help="Seed of weights and activations.")] = 0) -> None:
    """Measure the default instance against the dense one, both as RTL under Verilator, at one activation bit per cycle.

    Exits with 1 if a pattern misses its share of the limit: 95 % on 8 tiles, 99 % on 32.
    """
    console = Console()
    console.print(f"seed {seed}, {VECTORS} vectors, G = 1")
    names = ("cycles", "dense", "array busy", "speed-up", "limit", "share")
    table = Table("tiles", "pattern", *(Column(name, justify="right") for name in names))
    total = len(TARGETS) * len(preset("flexcim").patterns)
    missed = 0
    for it in track(measurements(seed), "simulating", total, console=console, disable=not console.is_terminal):
        limit = 1 / it.pattern.density
        ratios = (f"{it.busy:.1%}", f"{it.speedup:.3f}", f"{limit:.3f}", f"{it.share:.2%}")
        row = (str(it.tiles), str(it.pattern), str(it.cycles), str(it.dense_cycles), *ratios)
        table.add_row(*row, style=None if it.reached else "red")
        missed += not it.reached
    console.print(table)
    if missed:
        console.print(f"{missed} measurements miss their target")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    typer.run(main)
