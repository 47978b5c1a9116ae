"""A compiled model on disk: one folder with the programs, the weight images and a JSON of the schedule."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flexcim.accelerator.bus_words import run_words
from flexcim.accelerator.instructions import AcceleratorProgram, LoadTile, RunTiles
from flexcim.compiler.layer import CompiledLayer
from flexcim.compiler.mapping import CompileError
from flexcim.compiler.model import layer_cells
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import ceil_div
from flexcim.files import check_writable, new_folder, numbered_stem, writing
from flexcim.packed.layer import PackedLayer
from flexcim.packed.model import PackedModel

__all__ = ["SCHEDULE", "check_compiled", "write_compiled"]

SCHEDULE = "schedule.json"
"""Name of the JSON in the folder."""

_FORMAT = "flexcim compiled model"


def check_compiled(path: str | os.PathLike[str]) -> None:
    """Make sure, before the work, that `write_compiled` can write a folder; makes the folders that it goes into.

    Raises
    ------
    CompileError
        If the folder holds something else or cannot be written.
    """
    target = Path(path).resolve()
    with writing(target, CompileError):
        _check_replaceable(target)
        check_writable(target.parent / f".{target.name}.new")  # it is filled beside its place


def write_compiled(
    path: str | os.PathLike[str],
    config: AcceleratorConfig,
    model: PackedModel,
    layers: Mapping[str, CompiledLayer],
) -> None:
    """Write a compiled model as a folder, which appears whole or not at all.

    Beside ``schedule.json`` there are, for each layer, ``NAME.weights.bin``, the words of its weight stream, and
    ``NAME.load0.bin``, ..., ``NAME.pass0.bin``, ..., the images of the programs to be carried out once and in each
    pass: all little endian, as they go over the buses.

    Parameters
    ----------
    path : path
        The folder. It may be absent, empty, or hold a compiled model, which is replaced.
    config : AcceleratorConfig
        The accelerator.
    model : PackedModel
        The model; its layers are taken one after the other.
    layers : mapping of str to CompiledLayer
        What `compile_model` made of them.

    Raises
    ------
    CompileError
        If the folder holds something else or cannot be written, or a layer cannot be placed.
    """
    target = Path(path).resolve()
    with writing(target, CompileError):
        _check_replaceable(target)
        with new_folder(target) as folder:
            entries = [
                _write_layer(folder, index, packed, layers[packed.name]) for index, packed in enumerate(model.layers)
            ]
            document = {
                "format": _FORMAT,
                "config": config.to_mapping(),
                "metadata": dict(model.metadata),
                "layers": entries,
            }
            text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
            (folder / SCHEDULE).write_text(text + "\n", encoding="utf-8")


def _check_replaceable(target: Path) -> None:
    """Raise CompileError if something is there that is not ours to replace."""
    if target.is_file():
        raise CompileError(f"{target}: is a file, so no compiled model can be written there")
    if not target.exists() or not any(target.iterdir()):
        return
    try:
        ours = json.loads((target / SCHEDULE).read_bytes())["format"] == _FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise CompileError(f"{target}: is not empty and holds no compiled model, so it is not replaced")


def _write_layer(folder: Path, index: int, packed: PackedLayer, layer: CompiledLayer) -> dict[str, Any]:
    """Write a layer's files, and say what they hold."""
    stem = numbered_stem(index, packed.name)
    image = layer.weight_image(*layer_cells(packed, layer))
    (folder / f"{stem}.weights.bin").write_bytes(image.tobytes())

    def programs(kind: str, those: tuple[AcceleratorProgram, ...]) -> list[dict[str, Any]]:
        entries = []
        for number, program in enumerate(those):
            file = f"{stem}.{kind}{number}.bin"
            (folder / file).write_bytes(program.words(layer.config.macro).astype("<u4").tobytes())
            entries.append({"file": file, "instructions": len(program), **_moves(program)})
        return entries

    tiling, bounds = layer.tiling, layer.schedule.bounds(layer.config)
    return {
        "name": packed.name,
        "outputs": tiling.outputs,
        "inputs": tiling.inputs,
        "pattern": tiling.pattern_names,
        "activation_scale": packed.activation_scale,
        "weight_scales": packed.weight_scales.tolist(),
        "vectors": layer.vectors,
        "mapping": vars(layer.mapping),
        "resident": layer.resident,
        "weights": {"file": f"{stem}.weights.bin", "words": len(image)},
        "loading": programs("load", layer.loading),
        "programs": programs("pass", layer.programs),
        "cycles": vars(layer.cycles),
        "busy": vars(bounds),
        "bound": bounds.by,
        "activations": _activations(layer),
        "results": _results(layer),
    }


def _moves(program: AcceleratorProgram) -> dict[str, int]:
    """Words that a program takes from the streams."""
    words = {LoadTile: 0, RunTiles: 0}
    for one in program.carried_out():
        words[type(one)] += one.words
    return {"weight_words": words[LoadTile], "activation_words": words[RunTiles]}


def _activations(layer: CompiledLayer) -> list[dict[str, int]]:
    """The run images of a pass in order: which inputs of which vectors, as how many beats and words.

    Where the base of a nested layer ends within a tile, the inputs of its rest begin at a row of their own.
    """
    tiling, config = layer.tiling, layer.config
    entries = []
    for part in layer.schedule.runs:
        tile = tiling.tiles[part.k_tile]
        window = config.macro.window(tile.pattern, tiling.groups)
        beats = config.macro.vector_beats(window, tile.rows)
        span, *others = tile.spans
        entry = {"first_input": span.start, "inputs": len(span)}
        for other in others:
            row = tile.rows - ceil_div(len(other), window)
            entry |= {"rest_row": row, "rest_first_input": other.start, "rest_inputs": len(other)}
        entries.append(
            entry
            | {
                "first_vector": part.vectors.start,
                "vectors": len(part.vectors),
                "beats": beats,
                "words": run_words(config, len(part.vectors), beats),
            }
        )
    return entries


def _results(layer: CompiledLayer) -> list[dict[str, int]]:
    """The results of a pass in order: for each of the vectors, for each tile, its outputs as 32-bit sums, padded to
    whole beats."""
    tiling, macro = layer.tiling, layer.config.macro
    return [
        {
            "first_vector": part.vectors.start,
            "vectors": len(part.vectors),
            "first_output": part.output_tiles.start * tiling.tile_outputs,
            "tiles": len(part.output_tiles),
            "tile_outputs": tiling.tile_outputs,
            "tile_sums": macro.result_beats(tiling.groups) * macro.result_port,
        }
        for part in layer.schedule.results
    ]
