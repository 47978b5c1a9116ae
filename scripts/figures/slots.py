"""The slot format on real weights: blocks of a shipped model, as the encoder stores them and as the cells hold them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.packed.cells import pack_layer
from flexcim.packed.slots import encode_slots
from flexcim.packed.tiling import tile_layer
from scripts.figures.canvas import Canvas

__all__ = ["Example", "draw_placement", "draw_slots", "real_weights"]

MODEL = Path(__file__).resolve().parents[2] / "models" / "llama-kjv"
LAYER = "model.layers.0.self_attn.q_proj"
SIDE = 46.0


@dataclass(frozen=True)
class Example:
    """Some weights of a layer in integers, the largest of each block kept.

    Parameters
    ----------
    outputs, inputs : range
        The part of the layer.
    dense, kept : int8 [outputs, inputs]
        All of its weights, and those that a pattern keeps by magnitude.
    pattern : Pattern
        The pattern.
    """

    outputs: range
    inputs: range
    dense: NDArray[np.int8]
    kept: NDArray[np.int8]
    pattern: Pattern


def real_weights(pattern: Pattern, outputs: range, inputs: range) -> Example:
    """A part of a layer of the shipped Llama, in int8 by the rule of docs/architecture.md, section 6."""
    weights = load_file(MODEL / "model.safetensors")[f"{LAYER}.weight"].astype(np.float32)
    scales = np.abs(weights).max(axis=1, keepdims=True) / np.float32(127)
    dense = np.rint(weights / scales).astype(np.int8)[outputs.start : outputs.stop, inputs.start : inputs.stop]
    blocks = np.abs(dense.astype(np.int16)).reshape(len(outputs), -1, pattern.m)
    order = np.argsort(-blocks, axis=2, kind="stable")[:, :, : pattern.n]
    mask = np.zeros(blocks.shape, bool)
    np.put_along_axis(mask, order, True, axis=2)
    return Example(outputs, inputs, dense, np.where(mask.reshape(dense.shape), dense, 0).astype(np.int8), pattern)


def draw_slots(example: Example) -> Canvas:
    """One block of two outputs: which positions each slot reaches, and what it stores."""
    pattern = example.pattern
    canvas = Canvas(1000, 430, f"The slot format: two blocks in {pattern}, each with a mask of its own")
    canvas.heading(
        "Sorted slots, sliding offsets", f"two outputs of {LAYER} under {pattern}: each has a mask of its own"
    )
    values, offsets = encode_slots(example.kept, pattern)
    for index, left in enumerate((24.0, 512.0)):
        _draw_block(canvas, example, index, left, values[index, 0], offsets[index, 0])
    reach = pattern.max_offset + 1
    bits = f"an offset of {pattern.max_offset.bit_length()} bits names one of {pattern.m} inputs"
    canvas.text(24, 408, f"Slot k reaches the {reach} positions k … k + {pattern.max_offset}: {bits}.", soft=True)
    return canvas


def _draw_block(
    canvas: Canvas, example: Example, index: int, left: float, values: NDArray[np.int8], offsets: NDArray[np.uint8]
) -> None:
    """The weights above, the slots with their reach below, what is stored at the right."""
    pattern = example.pattern
    canvas.text(left, 74, f"output {example.outputs[index]}, inputs {example.inputs[0]} … {example.inputs[-1]}", "head")
    x, y = left, 88.0
    for place in range(pattern.m):
        kept = example.kept[index, place] != 0
        canvas.box(x + place * SIDE, y, SIDE - 4, 34, "weight" if kept else "plain", radius=4)
        middle = x + place * SIDE + (SIDE - 4) / 2
        canvas.text(
            middle,
            y + 22,
            f"{example.dense[index, place]}".replace("-", "−"),
            "small",
            anchor="middle",
            soft=not kept,
            room=SIDE - 5,
        )
        canvas.text(middle, y + 50, f"{place}", "small", anchor="middle", soft=True)
    canvas.text(x + pattern.m * SIDE + 6, y + 50, "position p", "small", soft=True)
    for slot in range(pattern.n):
        top = y + 70 + slot * 54
        canvas.fill(x + slot * SIDE, top, (pattern.max_offset + 1) * SIDE - 4, 40, "control")
        position = slot + int(offsets[slot])
        canvas.box(x + position * SIDE, top, SIDE - 4, 40, "weight", radius=4)
        canvas.text(
            x + position * SIDE + (SIDE - 4) / 2,
            top + 25,
            f"{values[slot]}".replace("-", "−"),
            "text",
            anchor="middle",
            room=SIDE - 4,
        )
        if offsets[slot]:
            canvas.arrow([(x + slot * SIDE + 8, top + 33), (x + position * SIDE - 5, top + 33)], "memory")
            canvas.text(x + slot * SIDE + 10, top + 24, f"o = {offsets[slot]}", "small", kind="memory")
        right = x + pattern.m * SIDE + 6
        canvas.text(right, top + 17, f"slot {slot}", "small")
        canvas.text(right, top + 34, f"p − k = {position} − {slot}", "small", soft=True)


def draw_placement(config: MacroConfig, example: Example) -> Canvas:
    """Where the slots of a small layer lie: the cells of the sub-macros that `pack_layer` fills."""
    pattern = example.pattern
    outputs, inputs = example.kept.shape
    tiling = tile_layer(config, outputs, inputs, pattern, groups=1)
    weights, offsets = pack_layer(tiling, example.kept)
    window = config.window(pattern, 1)
    canvas = Canvas(1000, 274, f"Where slots lie: a tile of {pattern} on {config.sub_macros} sub-macros")
    shape = f"S = {config.sub_macros}, R = {config.rows}, C = {config.columns}, G = 1"
    canvas.heading("Where the slots lie", f"{outputs} outputs × {inputs} inputs in {pattern} on {shape}")
    for row in range(config.rows):
        top = 100 + row * 84
        canvas.text(24, top + 24, f"row r = {row}", "head")
        canvas.text(24, top + 42, "window: inputs", "small", soft=True)
        canvas.text(24, top + 58, f"{row * window} … {row * window + window - 1}", "small", soft=True)
        for sub_macro in range(config.sub_macros):
            for column in range(config.columns):
                x = 150 + sub_macro * 212 + column * 50
                canvas.box(x, top, 46, 66, "weight", radius=4)
                value = f"{weights[0, row, sub_macro, column]}".replace("-", "−")
                canvas.text(x + 23, top + 28, value, "text", anchor="middle", room=45)
                canvas.text(
                    x + 23,
                    top + 52,
                    f"o = {offsets[0, row, sub_macro, column]}",
                    "small",
                    anchor="middle",
                    kind="memory",
                    room=45,
                )
    for sub_macro in range(config.sub_macros):
        x = 150 + sub_macro * 212
        slot = f"block +{sub_macro // pattern.n}, slot {sub_macro % pattern.n}"
        canvas.text(x, 70, f"sub-macro a = {sub_macro}", "head", room=206)
        canvas.text(x, 88, slot, "small", soft=True)
    return canvas
