"""The macro as a block diagram, with the widths of a configuration."""

from __future__ import annotations

from flexcim.config.macro import SUM_BITS, MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.macro.cycles import result_entries
from flexcim_hw.macro.merging import merged_sum_bits
from flexcim_hw.macro.sub_macro import column_sum_bits
from scripts.figures.canvas import Canvas

__all__ = ["draw_macro"]

LEFT, RIGHT = 236.0, 676.0
"""Between these the sub-macros stand, and below them what adds their sums up."""

GAP = 16.0
DRAWN = 7
"""Cells that are drawn in each row and column of a sub-macro."""

PITCH = 12.0
PATTERNS = ("1:1", "4:5", "2:4", "4:10", "2:8")
"""Of these the corner shows what a tile covers."""


def draw_macro(config: MacroConfig, name: str) -> Canvas:
    """The blocks of docs/architecture.md, section 3: activations from the left, weights from above, sums downwards."""
    canvas = Canvas(1000, 604, f"The macro of the preset {name}: its blocks, and the bits between them")
    cells = f"R × C = {config.rows} × {config.columns} cells, B = {config.banks} banks"
    canvas.heading("The macro", f"preset {name}: S = {config.sub_macros} sub-macros of {cells}")
    _draw_activations(canvas, config)
    _draw_weight_loader(canvas, config)
    places = _draw_sub_macros(canvas, config)
    _draw_merging(canvas, config, places)
    _draw_totals(canvas, config)
    _draw_cell(canvas, config, places[-1])
    _draw_tiles(canvas, config)
    return canvas


def _draw_activations(canvas: Canvas, config: MacroConfig) -> None:
    """Activation buffer and crossbar, one above the other; the run side below."""
    bits, b = config.activation_bits, config.bits_per_cycle
    canvas.text(24, 78, "activations", "head", kind="activation")
    canvas.text(24, 95, f"{config.activation_port} × {bits} bits a beat", "small", soft=True)
    canvas.arrow([(104, 101), (104, 120)], "activation", wide=True)
    windows = f"{config.rows} × {config.max_window} × {bits} bits"
    canvas.block(24, 122, 160, 76, "activation", "Activation buffer", ["two halves, each", windows])
    canvas.arrow([(104, 198), (104, 230)], "activation", wide=True)
    canvas.text(114, 219, f"{config.rows} × {config.max_window} × {b} bit", "small", soft=True)
    lanes = f"{config.sub_macros} × {config.lanes} lanes × {b} bit"
    canvas.block(24, 232, 160, 76, "activation", "Crossbar", [f"in each of {config.rows} rows", lanes])
    canvas.block(24, 402, 160, 60, "control", "Sequencer", ["vectors, slices, phases"])
    canvas.arrow([(104, 402), (104, 310)], dashed=True)
    canvas.arrow([(184, 432), (LEFT - 2, 432)], dashed=True)
    canvas.text(24, 504, "run", "head", kind="control")
    canvas.text(56, 504, "bank, pattern, G,", "small", soft=True)
    canvas.text(56, 520, "vectors, K tile", "small", soft=True)
    canvas.arrow([(104, 490), (104, 464)])


def _draw_weight_loader(canvas: Canvas, config: MacroConfig) -> None:
    """Weights and load commands, from above."""
    canvas.text(LEFT, 78, "weights", "head", kind="weight")
    cells = f"{config.weight_port} × ({config.weight_bits} + {config.index_bits}) bits a beat"
    canvas.text(LEFT + 70, 78, cells, "small", soft=True)
    canvas.arrow([(498, 66), (498, 88)], "weight", wide=True)
    canvas.text(536, 78, "load", "head", kind="control")
    canvas.text(578, 78, "bank, rows", "small", soft=True)
    canvas.arrow([(662, 66), (662, 88)])
    canvas.block(LEFT, 90, RIGHT - LEFT, 34, "weight", "Weight loader: fills the bank that does not compute")


def _draw_sub_macros(canvas: Canvas, config: MacroConfig) -> list[float]:
    """Sub-macros and the lanes between them; returns the middle of each sub-macro that is drawn."""
    drawn = min(config.sub_macros, 4)
    width = (RIGHT - LEFT - GAP * (drawn - 1)) / drawn
    middles = [LEFT + width / 2 + index * (width + GAP) for index in range(drawn)]
    for index, middle in enumerate(middles):
        _draw_sub_macro(canvas, config, middle, width, f"sub-macro {index}", marked=index == drawn - 1)
    canvas.arrow([(184, 270), (218, 270), (218, 212), (LEFT - 1, 212)], "activation", wide=True)
    for middle in middles[1:]:
        left = middle - width / 2
        canvas.arrow([(left - GAP, 212), (left - 1, 212)], "activation", wide=True)
    return middles


def _draw_sub_macro(
    canvas: Canvas, config: MacroConfig, middle: float, width: float, name: str, *, marked: bool
) -> None:
    """Cells, and the column adder trees below them; ``marked``: the inset shows one of its cells."""
    left = middle - width / 2
    canvas.arrow([(middle, 124), (middle, 142)], "weight", wide=True)
    canvas.box(left, 144, width, 164)
    canvas.text(middle, 161, name, "small", anchor="middle", room=width)
    for row in range(DRAWN):
        for column in range(DRAWN):
            x = middle - PITCH * DRAWN / 2 + column * PITCH + 1
            strong = marked and (row, column) == (2, DRAWN - 1)
            canvas.fill(x, 169 + row * PITCH, PITCH - 2, PITCH - 2, "weight", strong=strong)
    canvas.box(left + 6, 262, width - 12, 38, "sum", radius=4)
    canvas.text(middle, 278, f"{config.columns} columns:", "small", anchor="middle", room=width - 4)
    canvas.text(middle, 294, "adder trees", "small", anchor="middle", room=width - 4)


def _draw_merging(canvas: Canvas, config: MacroConfig, middles: list[float]) -> None:
    """The adder tree over the sub-macros, level by level, with its taps."""
    canvas.box(LEFT, 332, RIGHT - LEFT, 70, "sum")
    canvas.text(LEFT + 10, 392, "Merging tree", "head")
    taps = f"taps: G = {', '.join(map(str, config.group_counts))}"
    canvas.text(RIGHT - 10, 392, taps, "small", anchor="end", soft=True)
    for middle in middles:
        canvas.arrow([(middle, 308), (middle, 331)], "sum", wide=True)
    canvas.text(middles[0] + 8, 324, f"{config.columns} × {column_sum_bits(config)} bits", "small", soft=True)
    level, y = middles, 340.0
    while len(level) > 1:
        above = [(left + right) / 2 for left, right in zip(level[::2], level[1::2], strict=True)]
        for place, left, right in zip(above, level[::2], level[1::2], strict=True):
            canvas.line([(left, y), (left, y + 8), (place, y + 8), (place, y + 18)], "sum")
            canvas.line([(right, y), (right, y + 8), (place, y + 8)], "sum")
            canvas.dot(place, y + 8, "sum", radius=4.5)
        level, y = above, y + 16
    canvas.arrow([(level[0], y), (level[0], 418)], "sum", wide=True)
    canvas.text(level[0] + 10, 414, f"{config.columns} × {merged_sum_bits(config)} bits at G = 1", "small", soft=True)


def _draw_totals(canvas: Canvas, config: MacroConfig) -> None:
    """Accumulator and result buffer."""
    sums = f"{config.accumulator_depth} × {config.columns} sums of {SUM_BITS} bits"
    what = [f"over {config.slices} slices, then over the K tiles of a layer: {sums}"]
    canvas.block(LEFT, 420, RIGHT - LEFT, 60, "memory", "Accumulator", what)
    canvas.arrow([(456, 480), (456, 512)], "sum", wide=True)
    canvas.text(466, 500, f"{config.columns} × {SUM_BITS} bits", "small", soft=True)
    block = "Result buffer and requantizer" if config.requantizer else "Result buffer"
    what = [f"{result_entries(config)} vectors: the elastic edge of a rigid pipeline"]
    canvas.block(LEFT, 514, RIGHT - LEFT, 60, "sum", block, what)
    canvas.arrow([(RIGHT, 544), (716, 544)], "sum", wide=True)
    canvas.text(726, 541, "results", "head", kind="sum")
    canvas.text(726, 558, f"{config.result_port} × {SUM_BITS} bits a beat", "small", soft=True)


def _draw_cell(canvas: Canvas, config: MacroConfig, middle: float) -> None:
    """The inset: one cell."""
    x, y, width, height = 708.0, 90.0, 268.0, 222.0
    corner = middle + PITCH * DRAWN / 2 - 2
    canvas.line([(corner, 193), (x, y)], "weight", dashed=True)
    canvas.line([(corner, 203), (x, y + height)], "weight", dashed=True)
    canvas.box(x, y, width, height, "plain")
    canvas.text(x + 14, y + 22, "One cell", "head")
    for bank in range(min(config.banks, 2)):
        top = y + 34 + bank * 34
        canvas.box(x + 14, top, 108, 28, "weight", radius=3)
        canvas.text(x + 68, top + 18, f"weight {config.weight_bits}", "small", anchor="middle", room=104)
        canvas.box(x + 122, top, 76, 28, "weight", radius=3)
        canvas.text(x + 160, top + 18, f"offset {config.index_bits}", "small", anchor="middle", room=72)
        canvas.text(x + 206, top + 18, f"bank {bank}", "small", soft=True)
    canvas.text(x + 14, y + 152, f"{config.lanes} lanes", "small", kind="activation")
    for lane in range(config.lanes):
        canvas.line([(x + 14, y + 160 + lane * 6), (x + 134, y + 160 + lane * 6)], "activation")
    bottom = y + 156 + config.lanes * 6
    canvas.area([(x + 134, y + 154), (x + 158, y + 166), (x + 158, bottom - 6), (x + 134, bottom + 6)], "activation")
    canvas.line(
        [(x + 134, y + 154), (x + 158, y + 166), (x + 158, bottom - 6), (x + 134, bottom + 6), (x + 134, y + 154)],
        "activation",
    )
    canvas.arrow([(x + 160, y + 102), (x + 160, y + 130), (x + 146, y + 130), (x + 146, y + 159)], "weight")
    canvas.arrow([(x + 68, y + 102), (x + 68, y + 126), (x + 204, y + 126), (x + 204, y + 167)], "weight")
    canvas.arrow([(x + 158, y + 181), (x + 189, y + 181)], "activation")
    canvas.box(x + 191, y + 169, 26, 26, "sum", radius=13)
    canvas.text(x + 204, y + 187, "×", "head", anchor="middle")
    canvas.arrow([(x + 217, y + 181), (x + 252, y + 181)], "sum")
    canvas.text(
        x + 254, y + 206, f"{config.weight_bits + config.bits_per_cycle} bits", "small", anchor="end", soft=True
    )


def _draw_tiles(canvas: Canvas, config: MacroConfig) -> None:
    """What a tile covers under some patterns."""
    x, y = 708.0, 332.0
    canvas.text(x, y + 14, "A full tile at G = 1", "head")
    shown = [pattern for pattern in map(Pattern.parse, PATTERNS) if pattern in config.patterns]
    widest = max(config.tile_inputs(pattern, 1) for pattern in shown)
    for index, pattern in enumerate(shown):
        top = y + 24 + index * 24
        inputs = config.tile_inputs(pattern, 1)
        canvas.text(x + 36, top + 14, str(pattern), "small", anchor="end")
        canvas.fill(x + 46, top + 2, 150 * inputs / widest, 16, "activation", strong=True)
        canvas.text(x + 52 + 150 * inputs / widest, top + 14, f"{inputs} inputs", "small", soft=True)
    y += 24 + 24 * len(shown) + 16
    cycles = sorted({config.issue_cycles(pattern) for pattern in shown})
    canvas.text(
        x, y, f"× {config.tile_outputs(1)} outputs, {' or '.join(map(str, cycles))} cycles a vector", "small", soft=True
    )
