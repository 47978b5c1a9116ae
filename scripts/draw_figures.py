#!/usr/bin/env python3
"""Draw the figures of README and docs: SVGs from presets, shipped weights, simulated RTL and measured figures.

Block diagrams take their widths from a preset. The slot format is shown on weights of a shipped model, as the encoder
stores them. Timing comes from RTL in Amaranth's simulator, whose sums and cycles are checked on the way.

    python scripts/draw_figures.py
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from flexcim.config.accelerator import accelerator_preset
from flexcim.config.macro import MacroConfig, preset
from flexcim.config.pattern import Pattern
from flexcim.files import write_text
from scripts.figures.accelerator import draw_accelerator
from scripts.figures.canvas import Canvas
from scripts.figures.house import draw_house
from scripts.figures.macro import draw_macro
from scripts.figures.plots import draw_choice, draw_speedup, read_choice
from scripts.figures.slots import draw_placement, draw_slots, real_weights
from scripts.figures.waves import draw_stall, draw_timing
from scripts.figures.way import draw_way

ROOT = Path(__file__).resolve().parents[1]

PLACEMENT = MacroConfig(rows=2, columns=4, result_port=4, activation_port=16)
"""The default macro, cut down so that each of its cells can be drawn."""

FIGURES: Mapping[str, Callable[[], Canvas]] = {
    "macro": lambda: draw_macro(preset("flexcim"), "flexcim"),
    "way": draw_way,
    "house": draw_house,
    "slots": lambda: draw_slots(real_weights(Pattern(4, 8), range(3, 5), range(16, 24))),
    "placement": lambda: draw_placement(PLACEMENT, real_weights(Pattern(2, 4), range(3, 7), range(16, 32))),
    "timing": draw_timing,
    "stall": draw_stall,
    "accelerator": lambda: draw_accelerator(accelerator_preset("accelerator-4"), "accelerator-4"),
    "choice": lambda: draw_choice(read_choice(), "wide"),
    "choice-fixed": lambda: draw_choice(read_choice(), "fixed"),
    "speedup": lambda: draw_speedup("accelerator-4"),
}
"""All figures by the names of their files."""


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the SVGs.")] = ROOT / "docs" / "img",
) -> None:
    """Draw all figures."""
    for name, draw in FIGURES.items():
        write_text(output / f"{name}.svg", draw().render())


if __name__ == "__main__":
    typer.run(main)
