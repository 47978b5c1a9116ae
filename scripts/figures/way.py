"""The whole way: from a checkpoint and a configuration to hardware that is compared with its model, bit by bit."""

from __future__ import annotations

from scripts.figures.canvas import Canvas

__all__ = ["draw_way"]


def draw_way() -> Canvas:
    """Software above, hardware below, the comparison at the right."""
    canvas = Canvas(
        1000, 372, "The whole way: a checkpoint is pruned, packed and compiled, and runs on generated hardware"
    )
    canvas.heading("The whole way", "from a checkpoint and a configuration to results that are compared bit by bit")
    _draw_model(canvas)
    _draw_hardware(canvas)
    _draw_comparison(canvas)
    return canvas


def _draw_model(canvas: Canvas) -> None:
    canvas.block(24, 62, 122, 98, "plain", "Checkpoint", ["Hugging Face", "format"])
    canvas.arrow([(146, 111), (174, 111)], "weight", wide=True)
    canvas.box(176, 62, 208, 98, "weight")
    canvas.text(280, 83, "FLOW, the pruner", "head", anchor="middle", room=200)
    steps = ["statistics → cost of each pattern", "choice within a budget", "masks, least squares, int8"]
    canvas.lines(280, 105, steps, anchor="middle", room=202)
    canvas.arrow([(384, 111), (412, 111)], "weight", wide=True)
    canvas.block(414, 62, 140, 98, "weight", "Packed model", ["slots: weights", "and offsets, by tile"])
    canvas.arrow([(554, 111), (582, 111)], "weight", wide=True)
    canvas.block(584, 62, 150, 98, "control", "Compiler", ["mapping, schedule:", "the fastest by the", "cycle model"])
    canvas.arrow([(734, 111), (812, 111)], "control", wide=True)
    canvas.text(773, 84, "programs,", "small", anchor="middle", soft=True, room=74)
    canvas.text(773, 101, "images", "small", anchor="middle", soft=True, room=74)


def _draw_hardware(canvas: Canvas) -> None:
    canvas.block(24, 262, 122, 84, "plain", "my.toml", ["or a preset"])
    canvas.arrow([(146, 304), (174, 304)], wide=True)
    canvas.block(176, 262, 208, 84, "control", "Configuration", ["macro, accelerator:", "sizes, menu of patterns"])
    canvas.arrow([(280, 262), (280, 162)], dashed=True)
    canvas.text(290, 216, "menu, cycles", "small", soft=True)
    canvas.arrow([(384, 304), (582, 304)], wide=True)
    canvas.arrow([(484, 304), (484, 212), (650, 212), (650, 162)], dashed=True)
    canvas.block(584, 262, 150, 84, "control", "Generator", ["Amaranth → Verilog,", "C header, driver"])
    canvas.arrow([(734, 304), (812, 304)], wide=True)
    canvas.text(762, 322, "Verilog", "small", anchor="middle", soft=True, room=74)


def _draw_comparison(canvas: Canvas) -> None:
    canvas.block(814, 62, 162, 98, "memory", "Golden model", ["NumPy twins of", "each block,", "exact cycle model"])
    canvas.block(814, 262, 162, 84, "memory", "RTL", ["in Verilator", "and Icarus"])
    canvas.arrow([(895, 162), (895, 186)], "sum", wide=True)
    canvas.box(826, 188, 138, 46, "sum", radius=23)
    canvas.text(895, 208, "equal: each bit", "small", anchor="middle", room=126)
    canvas.text(895, 224, "and each cycle", "small", anchor="middle", room=126)
    canvas.arrow([(895, 260), (895, 236)], "sum", wide=True)
    canvas.arrow([(788, 111), (788, 284), (812, 284)], dashed=True)
