#!/usr/bin/env python3
"""Runs the C example on simulated RTL: generates the accelerator, compiles a layer for it, builds everything, runs it.

    .venv/bin/python examples/c/run.py
    .venv/bin/python examples/c/run.py --preset accelerator-board --seed 7

``multiply.c`` is what would run on a processor beside the accelerator; ``main.c`` checks it. Both are C99 and see the
accelerator only through ``platform.h``, which ``simulated_platform.cpp`` fulfils with the Verilated RTL.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from flexcim.compiler.layer import CompiledLayer, compile_layer
from flexcim.config.accelerator import ACCELERATOR_PRESETS, AcceleratorConfig, accelerator_preset
from flexcim.errors import FlexCiMError
from flexcim.files import write_text
from flexcim.packed.cells import pack_layer
from flexcim_hw.verilog.accelerator import generate_accelerator, write_accelerator
from flexcim_sim.build.library import build_with

__all__ = ["ExampleError", "build_example", "write_job"]

HERE = Path(__file__).resolve().parent
VECTORS = 5
STRICT = ("-std=c99", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror")


class ExampleError(FlexCiMError):
    """An accelerator on which the example cannot run."""


def write_job(config: AcceleratorConfig, seed: int, path: Path) -> None:
    """Write a random layer as the header that ``main.c`` includes: the job, its matrix and vectors, the results' order.

    The layer has the sparsest pattern of the menu, is a little more than one tile deep, and wide enough for each macro.
    """
    rng = np.random.default_rng(seed)
    macro, pattern = config.macro, max(config.macro.patterns, key=lambda one: one.m / one.n)
    outputs, inputs = macro.columns * config.macros + 3, macro.tile_inputs(pattern, 1) + 5
    blocks = np.zeros((outputs, -(-inputs // pattern.m), pattern.m), np.int8)
    limit = 1 << (macro.weight_bits - 1)
    blocks[:, :, : pattern.n] = rng.integers(-limit, limit, (*blocks.shape[:2], pattern.n))
    weights = rng.permuted(blocks, axis=2).reshape(outputs, -1)[:, :inputs]
    limit = 1 << (macro.activation_bits - 1)
    vectors = rng.integers(-limit, limit, (VECTORS, inputs)).astype(np.int8)
    layer = compile_layer(config, outputs, inputs, pattern, VECTORS)
    if len(layer.programs) > 1:
        raise ExampleError(f"program_depth must hold the example's program at once, not {config.program_depth}")
    write_text(path, _job_header(layer, weights, vectors))


def _job_header(layer: CompiledLayer, weights: NDArray[np.int8], vectors: NDArray[np.int8]) -> str:
    (program,) = layer.programs
    tiling, macro = layer.tiling, layer.config.macro
    words = program.words(macro)
    weight_image = layer.weight_image(*pack_layer(tiling, weights))
    activation_image = layer.activation_image(vectors)
    tile_sums = macro.result_beats(tiling.groups) * macro.result_port
    parts = [
        (part.vectors.start, len(part.vectors), part.output_tiles.start * tiling.tile_outputs, len(part.output_tiles))
        for part in layer.schedule.results
    ]
    sizes = {
        "OUTPUTS": tiling.outputs,
        "INPUTS": tiling.inputs,
        "VECTORS": layer.vectors,
        "TILE_OUTPUTS": tiling.tile_outputs,
        "TILE_SUMS": tile_sums,
        "RESULT_BYTES": 4 * tile_sums * sum(part[1] * part[3] for part in parts),
    }
    lines = ["/* Written by run.py. */", '#include "multiply.h"']
    lines += [f"#define {name} {value}" for name, value in sizes.items()]
    lines += [
        _c_array("int8_t matrix[OUTPUTS][INPUTS]", weights),
        _c_array("int8_t vectors[VECTORS][INPUTS]", vectors),
        _c_array("uint32_t program[]", words.reshape(-1)),
        _c_array("uint8_t weights[]", weight_image.reshape(-1)),
        _c_array("uint8_t activations[]", activation_image.reshape(-1)),
        _c_array("struct { int first_vector, vectors, first_output, tiles; } parts[]", np.array(parts)),
        f"static const struct job job = {{program, {len(words)}, weights, activations, sizeof weights,",
        "                                sizeof activations, RESULT_BYTES};",
    ]
    return "\n".join([*lines, ""])


def _c_array(declaration: str, values: NDArray[np.integer]) -> str:
    numbers = str(values.tolist()).replace("[", "{").replace("]", "}")
    return f"static const {declaration} = {numbers};"


def build_example(config: AcceleratorConfig, folder: Path) -> Path:
    """Build the example in a folder that holds ``job.h``, and return the program.

    The simulated platform is a library, built once for an accelerator; the C code is compiled and linked to it.
    """
    if config.register_bus != "axi4-lite":
        raise ExampleError(f"the simulated platform needs register_bus = 'axi4-lite', not {config.register_bus!r}")
    if shutil.which("gcc") is None:
        raise ExampleError("gcc, which compiles the example, is not installed")
    verilog = generate_accelerator(config)
    write_accelerator(verilog, config, folder)
    sources = {name: (HERE / name).read_text() for name in ("platform.h", "simulated_platform.cpp")}
    platform = build_with(verilog, sources, "platform.so")
    program = folder / "multiply"
    c_files = [str(HERE / name) for name in ("main.c", "multiply.c")]
    linking = [str(platform), f"-Wl,-rpath,{platform.parent}", "-o", str(program)]
    subprocess.run(["gcc", *STRICT, f"-I{HERE}", f"-I{folder}", *c_files, *linking], check=True)
    return program


def main(
    preset_name: Annotated[
        str, typer.Option("--preset", help=f"The accelerator: one of {', '.join(ACCELERATOR_PRESETS)}.")
    ] = "accelerator-board",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the layer and its vectors.")] = 0,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of what is generated and built.")] = Path(
        "build/example-c"
    ),
) -> None:
    """Run the C example on simulated RTL; its exit code is the example's."""
    try:
        config = accelerator_preset(preset_name)
        output.mkdir(parents=True, exist_ok=True)
        write_job(config, seed, output / "job.h")
        print(f"{preset_name}, seed {seed}: building in {output}, unless it has been built before", file=sys.stderr)
        program = build_example(config, output)
    except FlexCiMError as error:
        print(f"run.py: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except OSError as error:
        print(f"run.py: {error.filename}: cannot be written ({error.strerror})", file=sys.stderr)
        raise typer.Exit(2) from None
    raise typer.Exit(subprocess.run([program.absolute()], check=False).returncode)


if __name__ == "__main__":
    typer.run(main)
