#!/usr/bin/env python3
"""Measure how close accelerators come to their limits, what sparsity gains there, and how they scale with macros.

Cycles are those of the exact cycle model. Where a row says RTL, the generated accelerator was simulated with the same
programs, gave the integer product of the layer, and took exactly these cycles.

    python scripts/benchmark_accelerator.py
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import typer
from rich.table import Column, Table

from flexcim.accelerator.bus_words import run_words, tile_words
from flexcim.cli.console import shown_steps, table_console
from flexcim.compiler.layer import CompiledLayer, compile_layer
from flexcim.compiler.mapping import vector_beats
from flexcim.compiler.schedule import Bounds
from flexcim.config.accelerator import ACCELERATOR_PRESETS, AcceleratorConfig
from flexcim.config.macro import PRESETS, ceil_div
from flexcim.config.pattern import Pattern
from flexcim.packed.cells import pack_layer
from flexcim.packed.layer import PackedLayer
from flexcim.packed.model import PackedModel
from flexcim.packed.tiling import LayerTiling
from flexcim_hw.verilog.accelerator import generate_accelerator
from flexcim_sim.build.library import build_accelerator_library
from flexcim_sim.runtime.backends import Backend, CheckedBackend, TorchBackend, VerilatorBackend
from flexcim_sim.runtime.driver import SimulatedAccelerator

NAMES = ("accelerator", "accelerator-2", "accelerator-4")
LARGEST = ACCELERATOR_PRESETS[NAMES[-1]]
SHAPES = ((512, 512), (1024, 1024), (512, 2048))
SIMULATED = SHAPES[0]
VECTORS = 64
DENSE = Pattern(1, 1)
PREFILL_SHARE, DECODE_SHARE, GENERATION_RATIO = 0.90, 0.95, 1.5
GENERATIONS = 3
"""Times that each Verilog is generated; the fastest counts."""


# -- limits ------------------------------------------------------------------------------------------------------------


def limits(config: AcceleratorConfig, shape: tuple[int, int], pattern: Pattern, vectors: int) -> Bounds:
    """What a layer keeps each part busy for at least (docs/architecture.md, section 3.3), at the best G.

    It knows of no schedule: the tiles are spread evenly over the macros, each is loaded once, each vector comes over
    the bus once, and neither the first loads nor any latency costs anything.
    """
    macro, found = config.macro, []
    for groups in macro.legal_groups(pattern):
        tiling = LayerTiling(macro, *shape, pattern, groups, "for its limit")
        rounds = ceil_div(tiling.output_tiles, config.macros)
        beats, result_beats = vector_beats(tiling), macro.result_beats(groups)
        steps = [max(macro.issue_cycles(pattern), each) for each in beats]
        steps[-1] = max(steps[-1], result_beats)
        words = sum(tile_words(config, tile.rows) for tile in tiling.tiles)
        results = vectors * tiling.output_tiles * result_beats
        bounds = Bounds(
            compute=rounds * vectors * sum(steps),
            weights=max(words, weight_beats(tiling)),
            activations=sum(run_words(config, vectors, each) for each in beats),
            results=max(results, ceil_div(results * config.result_beat_bits, config.result_bus)),
        )
        found.append(bounds)
    return min(found, key=lambda bounds: bounds.cycles)


def weight_beats(tiling: LayerTiling) -> int:
    """Beats of a layer's tiles on a macro's weight port."""
    return sum(tiling.config.weight_beats(tile.rows) for tile in tiling.tiles)


@dataclass(frozen=True)
class Measurement:
    """A layer on an accelerator.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    prefill, decode : CompiledLayer
        The layer with 64 vectors, and with one.
    """

    config: AcceleratorConfig
    prefill: CompiledLayer
    decode: CompiledLayer

    @classmethod
    def of(cls, config: AcceleratorConfig, shape: tuple[int, int], pattern: Pattern) -> Measurement:
        """Compile a layer."""
        prefill, decode = (compile_layer(config, *shape, pattern, vectors) for vectors in (VECTORS, 1))
        return cls(config, prefill, decode)

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return self.prefill.tiling.outputs, self.prefill.tiling.inputs

    @property
    def pattern(self) -> Pattern:
        """The layer's pattern."""
        return self.prefill.tiling.pattern

    @property
    def prefill_limits(self) -> Bounds:
        """The limits of 64 vectors."""
        return limits(self.config, self.shape, self.pattern, VECTORS)

    @property
    def prefill_share(self) -> float:
        """Of the limit, what is reached."""
        return self.prefill_limits.cycles / self.prefill.cycles.cycles

    @property
    def decode_share(self) -> float:
        """Of what the weight bus and port can bring, what comes."""
        return limits(self.config, self.shape, self.pattern, 1).weights / self.decode.cycles.cycles

    @property
    def beats_gain(self) -> float:
        """Weight beats of the dense layer, relative to this one's: m/n, but for tiles that are not full."""
        dense = LayerTiling(self.config.macro, *self.shape, DENSE, 1, "for comparison")
        return weight_beats(dense) / weight_beats(self.decode.tiling)

    @property
    def streamed(self) -> float:
        """Bytes that are streamed, offsets included, relative to the int8 matrix, which has none."""
        return self.decode.cycles.weight_words * self.config.weight_bus / 8 / (self.shape[0] * self.shape[1])

    def speedups(self) -> tuple[float, float]:
        """Of prefill and decode, against the dense layer on macros without offsets behind the same buses and ports."""
        dense = replace(PRESETS["dense"], weight_port=self.config.macro.weight_port)
        other = Measurement.of(replace(self.config, macro=dense), self.shape, DENSE)
        pairs = ((other.prefill, self.prefill), (other.decode, self.decode))
        prefill, decode = (theirs.cycles.cycles / ours.cycles.cycles for theirs, ours in pairs)
        return prefill, decode


# -- simulation --------------------------------------------------------------------------------------------------------


def random_layer(config: AcceleratorConfig, pattern: Pattern, rng: np.random.Generator) -> PackedLayer:
    """A layer of the simulated shape with random weights, as many as the pattern allows."""
    outputs, inputs = SIMULATED
    whole = ceil_div(inputs, pattern.m)
    blocks = np.zeros((outputs, whole, pattern.m), np.int8)
    blocks[:, :, : pattern.n] = rng.integers(-127, 128, (outputs, whole, pattern.n))
    weights = rng.permuted(blocks, axis=2).reshape(outputs, -1)[:, :inputs]
    tiling = LayerTiling(config.macro, outputs, inputs, pattern, 1, "for a benchmark")
    cells, offsets = pack_layer(tiling, np.ascontiguousarray(weights))
    return PackedLayer(
        name=str(pattern),
        tiling=tiling,
        activation_scale=None,
        weight_scales=np.ones(outputs, np.float32),
        weights=cells,
        offsets=offsets,
    )


@contextmanager
def simulated(config: AcceleratorConfig, seed: int) -> Iterator[Backend]:
    """The RTL with a layer of each pattern, named by it; each product is compared with PyTorch's, each layer's cycles
    with the cycle model's."""
    rng = np.random.default_rng(seed)
    layers = [random_layer(config, pattern, rng) for pattern in config.macro.patterns]
    model = PackedModel(config.macro, {"model": "random layers"}, layers)
    with SimulatedAccelerator(config, build_accelerator_library(config)) as accelerator:
        yield CheckedBackend(VerilatorBackend(model, accelerator), TorchBackend(model))


def simulate(config: AcceleratorConfig, seed: int, done: Callable[[], None]) -> None:
    """Run prefill and decode of all patterns.

    Raises
    ------
    BackendError
        If a sum or the number of cycles differs.
    """
    rng = np.random.default_rng(seed + 1)
    with simulated(config, seed) as backend:
        for pattern in config.macro.patterns:
            for vectors in (VECTORS, 1):
                backend.multiply(str(pattern), rng.integers(-127, 128, (vectors, SIMULATED[1]), dtype=np.int8))
            done()


def generation_time(config: AcceleratorConfig) -> float:
    """CPU seconds that the Verilog takes, those of Yosys included."""
    seconds = []
    for _ in range(GENERATIONS):
        before = os.times()
        generate_accelerator(config)
        after = os.times()
        seconds.append(after.user - before.user + after.children_user - before.children_user)
    return min(seconds)


# -- tables ------------------------------------------------------------------------------------------------------------


def limit_table(name: str, measurements: list[Measurement]) -> Table:
    """How close an accelerator comes to its limits."""
    config = measurements[0].config
    names = (
        "prefill",
        "limit",
        "bound by",
        "share",
        "decode",
        "of port",
        "fewer beats",
        "of int8",
        "prefill",
        "decode",
    )
    columns: list[Column | str] = ["layer", "pattern", "cycles of"]
    columns += [Column(one, justify="left" if one == "bound by" else "right") for one in names]
    table = Table(
        *columns,
        title=f"{name}: macros = {config.macros}, weight_bus = {config.weight_bus}, weight_port = "
        f"{config.macro.weight_port}. The last four: dense weight beats / beats, bytes streamed / those of int8, "
        "speed-ups against macros without offsets behind the same buses",
        title_justify="left",
    )
    for one in measurements:
        bounds = one.prefill_limits
        missed = one.prefill_share < PREFILL_SHARE or one.decode_share < DECODE_SHARE
        table.add_row(
            f"{one.shape[0]} × {one.shape[1]}",
            str(one.pattern),
            "RTL" if one.shape == SIMULATED else "model",
            f"{one.prefill.cycles.cycles:,}",
            f"{bounds.cycles:,}",
            bounds.by,
            f"{one.prefill_share:.1%}",
            f"{one.decode.cycles.cycles:,}",
            f"{one.decode_share:.1%}",
            f"{one.beats_gain:.2f}",
            f"{one.streamed:.2f}",
            *(f"{gain:.2f}" for gain in one.speedups()),
            style="red" if missed else None,
        )
    return table


def scaling_table(shape: tuple[int, int]) -> Table:
    """What more macros behind the same buses bring."""
    counts = (1, 2, 4)
    names = ("1: cycles", "2: cycles", "speed-up, of 2", "4: cycles", "speed-up, of 4")
    columns: list[Column | str] = ["pattern", "vectors", *(Column(one, justify="right") for one in names), "4 bound by"]
    table = Table(
        *columns,
        title=f"1, 2 and 4 macros with the buses and ports of {NAMES[-1]}, {shape[0]} × {shape[1]}, by the cycle model",
        title_justify="left",
    )
    for pattern in LARGEST.macro.patterns:
        for vectors in (VECTORS, 1):
            configs = [replace(LARGEST, macros=count) for count in counts]
            cycles = [compile_layer(config, *shape, pattern, vectors).cycles.cycles for config in configs]
            cells = [f"{cycles[0]:,}"]
            for count, each in zip(counts[1:], cycles[1:], strict=True):
                gain = cycles[0] / each
                cells += [f"{each:,}", f"{gain:.2f} ({gain / count:.0%})"]
            bound = limits(configs[-1], shape, pattern, vectors).by
            table.add_row(str(pattern), str(vectors), *cells, bound)
    return table


def main(seed: Annotated[int, typer.Option(help="Seed of weights and activations.")] = 0) -> None:
    """Hold accelerators of 1, 2 and 4 macros against their limits, for all patterns and three shapes of layers.

    Prefill has 64 vectors, decode one; all weights stream. The limit of a prefill is that of section 3 of
    docs/architecture.md: the busiest of the arrays and the streams, if nothing ever waited. That of decode is what the
    weight bus and port can bring. 512 x 512 is simulated as RTL, in which sums and cycles must be right; larger layers
    are the cycle model's. Exits with 1 if a target is missed.
    """
    console = table_console()
    console.print(f"seed {seed}, prefill of {VECTORS} vectors, one activation bit per cycle")
    configs = {name: ACCELERATOR_PRESETS[name] for name in NAMES}
    measured: dict[str, list[Measurement]] = {}
    with shown_steps(len(configs) * len(LARGEST.macro.patterns)) as steps:
        for name, config in configs.items():
            simulate(config, seed, steps.done)
            measured[name] = [
                Measurement.of(config, shape, pattern) for shape in SHAPES for pattern in config.macro.patterns
            ]
    for name, measurements in measured.items():
        console.print(limit_table(name, measurements))
    for shape in SHAPES[:2]:
        console.print(scaling_table(shape))
    every = [one for measurements in measured.values() for one in measurements]
    prefill, decode = (min(getattr(one, f"{phase}_share") for one in every) for phase in ("prefill", "decode"))
    generate_accelerator(configs[NAMES[0]])  # the first one loads what all need
    one, alone, four = (generation_time(each) for each in (configs[NAMES[0]], replace(LARGEST, macros=1), LARGEST))
    ratios = four / alone, four / one
    targets = [
        (
            f"prefill reaches at least {prefill:.1%} of its limit; asked is {PREFILL_SHARE:.0%}",
            prefill >= PREFILL_SHARE,
        ),
        (f"decode reaches at least {decode:.1%} of its limit; asked is {DECODE_SHARE:.0%}", decode >= DECODE_SHARE),
        (
            f"the Verilog of 4 macros takes {ratios[0]:.2f} times as long as that of 1, and {ratios[1]:.2f} times as "
            f"long as that of {NAMES[0]}; asked is less than {GENERATION_RATIO}",
            max(ratios) < GENERATION_RATIO,
        ),
    ]
    for sentence, met in targets:
        console.print(f"{'met   ' if met else 'MISSED'}  {sentence}", style=None if met else "red")
    sys.exit(0 if all(met for _, met in targets) else 1)


if __name__ == "__main__":
    typer.run(main)
