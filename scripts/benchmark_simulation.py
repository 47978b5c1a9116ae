#!/usr/bin/env python3
"""Measure how fast the RTL is simulated: in this process from Python, against a bare C++ main and against cocotb.

All three carry out the same layer on the same Verilog, take turns, and are compared in every result. Times are CPU
times, which other work on the machine disturbs least, and the best of the turns counts. The C++ main
(benchmark_simulation.cpp) is compiled with the same optimisation as the library that Python loads.

    python scripts/benchmark_simulation.py
    python scripts/benchmark_simulation.py --prefill build/llama-60 --prefill build/mamba2-60
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from flexcim.compiler.layer import compile_layer
from flexcim.config.accelerator import AcceleratorConfig, accelerator_preset
from flexcim.config.pattern import Pattern
from flexcim.packed.cells import pack_layer
from flexcim_hw.verilog.accelerator import generate_accelerator
from flexcim_sim.bench.coverage.accelerator import probes
from flexcim_sim.bench.run.runner import run_tests
from flexcim_sim.build.library import build_library, build_with
from flexcim_sim.build.simulators import build
from flexcim_sim.golden.accelerator import GoldenAccelerator, WordStream
from flexcim_sim.runtime.driver import SimulatedAccelerator

PRESETS = ("accelerator", "accelerator-4")
SIZE, VECTORS, PATTERN = 512, 64, Pattern(4, 10)
"""The layer: as many inputs as outputs, 60 % of its weights pruned."""

LEAST_RATIO = 0.8
"""What the harness must reach of the bare main's cycles per second."""

PREFILL_TOKENS = 64
MOST_PREFILL_SECONDS = 120
TEXT = Path(__file__).resolve().parent.parent / "models" / "text" / "heldout.txt"
RATES = ("cycles/s", "dense MACs/s")
BARE, HARNESS, COCOTB = "bare C++ main", "harness", "cocotb"
COCOTB_MODULE = ".".join(filter(None, (__package__, f"{Path(__file__).stem}_cocotb")))
MAIN = Path(__file__).with_suffix(".cpp")


@dataclass(frozen=True)
class Job:
    """A layer as one program, and what must come out.

    Parameters
    ----------
    program : uint32 [instructions, 4]
        The program memory's image.
    weights, activations : uint8 [words, bytes]
        The streams' words.
    results : uint8 [bytes]
        What the result stream must carry.
    """

    program: NDArray[np.uint32]
    weights: NDArray[np.uint8]
    activations: NDArray[np.uint8]
    results: NDArray[np.uint8]

    def write(self, folder: Path) -> None:
        """Write what the other processes read."""
        for name, data in (
            ("program", self.program.tobytes()),
            ("weights", self.weights.tobytes()),
            ("activations", self.activations.tobytes()),
            ("expected", self.results.tobytes()),
        ):
            (folder / f"{name}.bin").write_bytes(data)


@dataclass(frozen=True)
class Timing:
    """Cycles that were simulated, and the CPU seconds that they took."""

    cycles: int
    seconds: float

    @property
    def rate(self) -> float:
        """Cycles per second."""
        return self.cycles / self.seconds

    def row(self, macs: int) -> tuple[str, str]:
        """`RATES`, as a table shows them; ``macs`` are those of the dense matrices."""
        return f"{self.rate:,.0f}", f"{macs / self.seconds:,.0f}"


def random_job(config: AcceleratorConfig, size: int, seed: int) -> Job:
    """A random layer; the golden accelerator's results, which are held against the integer product."""
    rng = np.random.default_rng(seed)
    blocks = np.zeros((size, -(-size // PATTERN.m), PATTERN.m), np.int8)
    blocks[:, :, : PATTERN.n] = rng.integers(-128, 128, (*blocks.shape[:2], PATTERN.n))
    weights = rng.permuted(blocks, axis=2).reshape(size, -1)[:, :size]
    activations = rng.integers(-128, 128, (VECTORS, size), dtype=np.int8)
    layer = compile_layer(config, size, size, PATTERN, VECTORS)
    (program,) = layer.programs
    words = program.words(config.macro)
    images = layer.weight_image(*pack_layer(layer.tiling, weights)), layer.activation_image(activations)
    results = GoldenAccelerator(config).execute(words, *map(WordStream, images)).results
    if not np.array_equal(layer.outputs(results), activations.astype(np.int32) @ weights.T.astype(np.int32)):
        raise SystemExit("the golden accelerator's results are not the integer product")
    return Job(words, *images, results)


# -- the three benches -------------------------------------------------------------------------------------------------


class Benches:
    """The same Verilog three times: in a program, in a library and in cocotb's simulator.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator, whose results are 512 bits wide and its registers behind AXI4-Lite.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        verilog = generate_accelerator(config)
        self._main = build_with(verilog, {"main.cpp": MAIN.read_text(encoding="utf-8")}, "bare")
        self._library = build_library(verilog)
        self._cocotb = build(verilog, "verilator", probes=probes(verilog.top))

    def turn(self, job: Job, folder: Path) -> dict[str, Timing]:
        """Let each carry a job out, whose files are in a folder; SystemExit if a result is wrong."""
        return {BARE: self.bare(job, folder), HARNESS: self.harness(job), COCOTB: self.cocotb(folder)}

    def bare(self, job: Job, folder: Path) -> Timing:
        """In a program of its own, which compares the results itself and hands them over."""
        run = subprocess.run([self._main, folder], stdout=subprocess.PIPE, text=True, check=False)
        if run.returncode or not np.array_equal(np.fromfile(folder / "results.bin", np.uint8), job.results):
            raise SystemExit("the bare main's results are not the golden accelerator's")
        return Timing(**json.loads(run.stdout))

    def harness(self, job: Job) -> Timing:
        """In this process, from Python."""
        with SimulatedAccelerator(self._config, self._library) as accelerator:
            before, begun = accelerator.elapsed, time.process_time()
            results = accelerator.execute(job.program, job.weights, job.activations, limit=10_000_000)
            timing = Timing(accelerator.elapsed - before, time.process_time() - begun)
        if not np.array_equal(results, job.results):
            raise SystemExit("the harness's results are not the golden accelerator's")
        return timing

    def cocotb(self, folder: Path) -> Timing:
        """In cocotb's simulator, whose bench compares the results itself."""
        (outcome,) = run_tests(self._cocotb, self._config, (COCOTB_MODULE,), folder, seed=0)
        if not outcome.passed:
            raise SystemExit(f"the cocotb bench failed: {outcome.message}")
        return Timing(**json.loads((folder / "timing.json").read_text()))


def measure(name: str, repeats: int, seed: int, console: Console) -> dict[str, Timing]:
    """The best of each bench's turns on a preset."""
    config = accelerator_preset(name)
    with console.status(f"{name}: building, unless it has been built before"):
        benches = Benches(config)
        job = random_job(config, SIZE, seed)
    best: dict[str, Timing] = {}
    with TemporaryDirectory() as temporary:
        job.write(Path(temporary))
        for _ in track(range(repeats), name, console=console, disable=not console.is_terminal, transient=True):
            for bench, timing in benches.turn(job, Path(temporary)).items():
                best[bench] = max(timing, best.get(bench, timing), key=lambda one: one.rate)
    return best


# -- prefill -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prefill:
    """A pruned model's pass over a prompt: its tokens, the time of all, and the MACs of the products on the RTL."""

    tokens: int
    timing: Timing
    macs: int


def time_prefill(folder: Path, name: str, console: Console) -> Prefill:
    """Let a pruned model write the token behind a prompt, its block linear layers on the RTL.

    Each product is compared with PyTorch's, and each layer's cycles with the cycle model.
    """
    from flexcim_sim.runtime.backends import (  # they import torch: seconds
        CheckedBackend,
        TorchBackend,
        VerilatorBackend,
    )
    from flexcim_sim.runtime.model import load_pruned

    config = accelerator_preset(name)
    pruned = load_pruned(folder)
    text = TEXT.read_text(encoding="utf-8")[: 16 * PREFILL_TOKENS]
    prompt = pruned.text(pruned.tokenizer(text)["input_ids"][:PREFILL_TOKENS])
    with console.status(f"{folder} on {name}: building, unless it has been built before"):
        library = build_library(generate_accelerator(config))
    with console.status(f"{folder} on {name}"), SimulatedAccelerator(config, library) as accelerator:
        checked = CheckedBackend(VerilatorBackend(pruned.packed, accelerator), TorchBackend(pruned.packed))
        pruned.run_on(checked)
        before, begun = accelerator.elapsed, time.process_time()
        pruned.generate(prompt, tokens=1)
        timing = Timing(accelerator.elapsed - before, time.process_time() - begun)
    return Prefill(len(pruned.tokenizer(prompt)["input_ids"]), timing, checked.macs)


# -- the command -------------------------------------------------------------------------------------------------------


def main(
    repeats: Annotated[int, typer.Option(min=1, help="Turns of each bench, of which the best counts.")] = 5,
    presets: Annotated[list[str] | None, typer.Option("--preset", help="Accelerators, instead of both.")] = None,
    prefill: Annotated[
        list[Path] | None, typer.Option(help="Folder of `flexcim prune`: also time a prompt through this model.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and activations.")] = 0,
) -> None:
    """Measure simulated cycles per second of the in-process harness, a bare C++ main and the cocotb bench.

    Exits with 1 if the harness has less than 0.8 of the bare main's, or a prefill takes more than two minutes.
    """
    console = Console()
    console.print(f"seed {seed}: {SIZE} x {SIZE} weights in {PATTERN}, {VECTORS} vectors, CPU time, best of {repeats}")
    names = presets or PRESETS
    missed = compare_benches(names, repeats, seed, console)
    if prefill:
        missed += time_prefills(prefill, names, console)
    if missed:
        print(*missed, sep="\n", file=sys.stderr)
        raise typer.Exit(1)


def compare_benches(names: Sequence[str], repeats: int, seed: int, console: Console) -> list[str]:
    """Show the benches' speeds; returns what misses its target."""
    table = Table("accelerator", "bench", *(Column(it, justify="right") for it in ("cycles", *RATES, "ratio")))
    missed = []
    for name in names:
        timings = measure(name, repeats, seed, console)
        bare = timings[BARE]
        for bench, timing in timings.items():
            rates = timing.row(SIZE * SIZE * VECTORS)
            table.add_row(name, bench, f"{timing.cycles:,}", *rates, f"{timing.rate / bare.rate:.2f}")
        if timings[HARNESS].rate < LEAST_RATIO * bare.rate:
            missed.append(f"{name}: the harness has less than {LEAST_RATIO} of the bare main's cycles per second")
    console.print(table)
    return missed


def time_prefills(folders: Sequence[Path], names: Sequence[str], console: Console) -> list[str]:
    """Show what prompts cost; returns what misses its target."""
    names_of_figures = ("tokens", "cycles", *RATES, "seconds")
    table = Table("prefill", "accelerator", *(Column(it, justify="right") for it in names_of_figures))
    missed = []
    for folder in folders:
        for name in names:
            prefill = time_prefill(folder, name, console)
            timing = prefill.timing
            figures = (str(prefill.tokens), f"{timing.cycles:,}", *timing.row(prefill.macs), f"{timing.seconds:.1f}")
            table.add_row(folder.name, name, *figures)
            if timing.seconds > MOST_PREFILL_SECONDS:
                missed.append(f"{folder} on {name}: a prefill takes more than {MOST_PREFILL_SECONDS} s")
    console.print(table)
    return missed


if __name__ == "__main__":
    typer.run(main)
