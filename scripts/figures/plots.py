"""Plots of what was measured and of what the cycle model computes."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flexcim.compiler.layer import compile_layer
from flexcim.config.accelerator import accelerator_preset
from flexcim.config.macro import MacroConfig, preset
from flexcim.config.pattern import Pattern
from flexcim.macro.cycles import program_cycles
from flexcim.packed.tiling import tile_layer
from scripts.figures.canvas import Canvas, Kind

__all__ = ["ChoiceRow", "draw_choice", "draw_speedup", "read_choice"]

CHOICE = Path(__file__).resolve().parents[2] / "docs" / "data" / "choice.csv"
MODELS = {"llama-kjv": "Llama", "mamba2-kjv": "Mamba-2", "gpt2-kjv": "GPT-2"}
OTHERS: Mapping[str, tuple[str, Kind]] = {
    "of_published_method": ("published method", "weight"),
    "of_published_choice": ("published choice, with our update", "memory"),
    "of_uniform": ("best uniform, with our update", "control"),
}
TILES, VECTORS, OUTPUTS = 8, 64, 512


@dataclass(frozen=True)
class ChoiceRow:
    """A model at a sparsity, pruned by FLOW's own choice and by others.

    Parameters
    ----------
    menu, model : str
        Menu of patterns, and the model's folder.
    sparsity : int
        In percent.
    shares : mapping of str to tuple of float
        The loss that FLOW's choice adds as a share of what each other way adds: mean, least and most of the draws.
    """

    menu: str
    model: str
    sparsity: int
    shares: Mapping[str, tuple[float, float, float]]


def read_choice() -> list[ChoiceRow]:
    """The committed figures of scripts/experiments_flow.py."""
    lines = [line for line in CHOICE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    rows = []
    for row in csv.DictReader(lines):
        shares = {name: (float(row[name]), float(row[f"{name}_least"]), float(row[f"{name}_most"])) for name in OTHERS}
        rows.append(ChoiceRow(row["menu"], row["model"], int(row["sparsity_percent"]), shares))
    return rows


# -- loss against sparsity ---------------------------------------------------------------------------------------------

_PANEL, _HEIGHT, _TOP = 276.0, 250.0, 92.0
_SHARES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_MOST = 1.3


def draw_choice(rows: Sequence[ChoiceRow], menu: str) -> Canvas:
    """A panel for each model, with a curve for each other way of pruning; the axis is logarithmic."""
    canvas = Canvas(1000, 426, f"Loss of FLOW's choice as a share of other ways' loss, on the menu {menu}")
    more = f"of other ways of pruning, on held-out text; menu “{menu}”; less is better"
    canvas.heading("FLOW's added loss as a share", more)
    for index, (model, name) in enumerate(MODELS.items()):
        left = 70 + index * (_PANEL + 36)
        _draw_axes(canvas, left, name, labelled=index == 0)
        of_model = sorted((row for row in rows if (row.menu, row.model) == (menu, model)), key=lambda row: row.sparsity)
        for shift, (key, (_, kind)) in zip((-3, 0, 3), OTHERS.items(), strict=True):
            _draw_curve(canvas, left + shift, [(row.sparsity, row.shares[key]) for row in of_model], kind)
    x = 70.0
    for label, kind in reversed(list(OTHERS.values())):
        canvas.dot(x + 6, 382, kind, radius=5)
        canvas.text(x + 18, 386, f"against the {label}", "small")
        x += 312
    note = "Mean of three draws, bars from the least to the most. Below 1, FLOW adds less loss than the other one."
    canvas.text(70, 410, note, "small", soft=True)
    return canvas


def _x(left: float, sparsity: float) -> float:
    return left + 20 + (sparsity - 50) / 25 * (_PANEL - 40)


def _y(share: float) -> float:
    low, high = math.log10(_SHARES[0]), math.log10(_MOST)
    return _TOP + _HEIGHT * (high - math.log10(share)) / (high - low)


def _draw_axes(canvas: Canvas, left: float, name: str, *, labelled: bool) -> None:
    canvas.text(left, _TOP - 16, name, "head")
    canvas.box(left, _TOP, _PANEL, _HEIGHT, "plain", radius=3)
    for share in _SHARES:
        if share == 1:
            canvas.line([(left, _y(share)), (left + _PANEL, _y(share))], "sum", dashed=True)
        elif share != _SHARES[0]:
            canvas.line([(left, _y(share)), (left + _PANEL, _y(share))], "plain")
        if labelled:
            canvas.text(left - 8, _y(share) + 4, f"{share:g}×", "small", anchor="end", soft=True)
    for sparsity in (50, 60, 70, 75):
        canvas.text(_x(left, sparsity), _TOP + _HEIGHT + 18, f"{sparsity} %", "small", anchor="middle", soft=True)


def _draw_curve(
    canvas: Canvas, left: float, points: Sequence[tuple[int, tuple[float, float, float]]], kind: Kind
) -> None:
    canvas.line([(_x(left, sparsity), _y(mean)) for sparsity, (mean, _, _) in points], kind)
    for sparsity, (mean, least, most) in points:
        x = _x(left, sparsity)
        canvas.line([(x, _y(least)), (x, _y(most))], kind, wide=True)
        canvas.dot(x, _y(mean), kind)


# -- speed-up by pattern -----------------------------------------------------------------------------------------------


def prefill_speedup(config: MacroConfig, dense: MacroConfig, pattern: Pattern) -> float:
    """Products of a dense layer per cycle, relative to the dense instance of the same cells: full tiles, 64 vectors."""

    def cycles(macro: MacroConfig, of: Pattern) -> int:
        tiling = tile_layer(macro, TILES * macro.tile_outputs(1), macro.tile_inputs(of, 1), of, groups=1)
        return program_cycles(macro, tiling.program(VECTORS)).cycles

    (one,) = dense.patterns
    wider = config.tile_inputs(pattern, 1) / dense.tile_inputs(one, 1)
    return wider * cycles(dense, one) / cycles(config, pattern)


def decode_speedup(name: str, pattern: Pattern) -> float:
    """The same for one vector on an accelerator, against dense macros behind the same buses: weights stream."""
    config = accelerator_preset(name)
    dense = replace(config, macro=replace(preset("dense"), weight_port=config.macro.weight_port))
    (one,) = dense.macro.patterns
    inputs = config.macro.tile_inputs(pattern, 1)
    ours = compile_layer(config, OUTPUTS, inputs, pattern, 1).cycles.cycles / inputs
    others = dense.macro.tile_inputs(one, 1)
    return compile_layer(dense, OUTPUTS, others, one, 1).cycles.cycles / others / ours


def draw_speedup(name: str) -> Canvas:
    """Two bars for each pattern of the menu, from the densest to the sparsest."""
    config = preset("flexcim")
    patterns = sorted(config.patterns, key=lambda pattern: (-pattern.density, pattern.m))
    canvas = Canvas(1000, 400, "Speed-up of each pattern over dense macros with as many cells")
    canvas.heading("Speed-up by pattern", "over the preset dense at equal cells, not at equal area")
    left, top, height, most = 70.0, 66.0, 252.0, 4.25
    for value in (1, 2, 3, 4):
        y = top + height * (1 - value / most)
        canvas.line([(left, y), (976, y)], "control" if value == 1 else "plain", dashed=value == 1)
        canvas.text(left - 10, y + 4, f"{value}×", "small", anchor="end", soft=True)
    pitch = (976 - left) / len(patterns)
    for index, pattern in enumerate(patterns):
        x = left + index * pitch + 6
        speedups = (prefill_speedup(config, preset("dense"), pattern), decode_speedup(name, pattern))
        kinds: tuple[Kind, Kind] = ("sum", "weight")
        for side, (speedup, kind) in enumerate(zip(speedups, kinds, strict=True)):
            tall = height * speedup / most
            canvas.fill(x + side * 32, top + height - tall, 28, tall, kind, strong=True)
            canvas.text(
                x + side * 32 + 14, top + height - tall - 5, f"{speedup:.2f}", "small", anchor="middle", room=32
            )
        canvas.text(x + 30, top + height + 19, str(pattern), "head", anchor="middle")
    canvas.dot(left + 12, 374, "sum", radius=5)
    canvas.text(left + 24, 378, f"prefill: one macro, {TILES} full tiles, {VECTORS} vectors", "small")
    canvas.dot(left + 372, 374, "weight", radius=5)
    canvas.text(
        left + 384,
        378,
        f"decode: {name}, {OUTPUTS // config.tile_outputs(1)} full tiles, one vector, weights streamed with offsets",
        "small",
    )
    return canvas
