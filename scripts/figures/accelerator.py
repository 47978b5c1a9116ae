"""The accelerator as a block diagram, with the widths of a configuration."""

from __future__ import annotations

from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import SUM_BITS
from scripts.figures.canvas import Canvas

__all__ = ["draw_accelerator"]


def draw_accelerator(config: AcceleratorConfig, name: str) -> Canvas:
    """The parts of docs/architecture.md, section 7: buses left and right, macros in the middle, control above."""
    canvas = Canvas(1000, 490, f"The accelerator of the preset {name}: its parts, and the bits between them")
    macro = config.macro
    cells = f"M = {config.macros} macros of {macro.sub_macros} × {macro.rows} × {macro.columns} cells"
    canvas.heading("The accelerator", f"preset {name}: {cells}")
    _draw_control(canvas, config)
    _draw_weights(canvas, config)
    _draw_activations(canvas, config)
    _draw_macros(canvas, config)
    _draw_results(canvas, config)
    return canvas


def _draw_control(canvas: Canvas, config: AcceleratorConfig) -> None:
    """Registers and sequencer."""
    bus, prefix = ("AXI4-Lite", "s_axil_*") if config.register_bus == "axi4-lite" else ("Wishbone", "wb_*")
    canvas.text(24, 92, bus, "head", kind="control")
    canvas.text(24, 110, prefix, "code", soft=True)
    canvas.text(24, 128, "irq", "code", soft=True)
    canvas.arrow([(122, 95), (182, 95)], both=True)
    canvas.block(184, 60, 180, 70, "control", "Registers", ["start, status, error,", "stall counters"])
    canvas.arrow([(364, 95), (434, 95)])
    program = [f"{config.program_depth} instructions:", "LOAD, RUN, LOOP, END"]
    canvas.block(436, 60, 230, 70, "control", "Program sequencer", program)
    canvas.arrow([(480, 130), (480, 144), (274, 144), (274, 166)], dashed=True)
    canvas.arrow([(626, 130), (626, 144), (801, 144), (801, 272)], dashed=True)


def _draw_weights(canvas: Canvas, config: AcceleratorConfig) -> None:
    """Where weights come in."""
    macro = config.macro
    canvas.text(24, 190, "weights", "head", kind="weight")
    canvas.text(24, 207, f"{config.weight_bus} bits", "small", soft=True)
    canvas.text(24, 226, "s_axis_weights_*", "code", soft=True)
    canvas.arrow([(122, 203), (182, 203)], "weight", wide=True)
    canvas.block(184, 168, 180, 70, "weight", "Weight feeder", ["bus words → beats,", "one port for all macros"])
    canvas.arrow([(364, 203), (434, 203)], "weight", wide=True)
    canvas.text(398, 194, f"{macro.weight_port * macro.cell_bits} bits", "small", anchor="middle", soft=True, room=68)


def _draw_activations(canvas: Canvas, config: AcceleratorConfig) -> None:
    """Where activations come in, and what keeps them."""
    macro = config.macro
    beat = macro.activation_port * macro.activation_bits
    canvas.text(24, 296, "activations", "head", kind="activation")
    canvas.text(24, 313, f"{config.activation_bus} bits", "small", soft=True)
    canvas.text(24, 332, "s_axis_activations_*", "code", soft=True)
    canvas.arrow([(122, 309), (182, 309)], "activation", wide=True)
    canvas.block(184, 274, 180, 70, "activation", "Activation feeder", ["bus words → beats,", "the same to all macros"])
    canvas.arrow([(364, 309), (434, 309)], "activation", wide=True)
    canvas.text(398, 300, f"{beat} bits", "small", anchor="middle", soft=True, room=68)
    if config.activation_memory:
        canvas.arrow([(274, 344), (274, 386)], "activation", wide=True, both=True)
        kept = [f"{config.activation_memory} × {beat} bits:", "stored once, replayed"]
        canvas.block(184, 388, 180, 70, "memory", "Activation memory", kept)


def _draw_macros(canvas: Canvas, config: AcceleratorConfig) -> None:
    """The macros: at most four are drawn."""
    canvas.frame(436, 158, 230, 304)
    drawn = min(config.macros, 4)
    height = (304 - 20 - 10 * (drawn - 1)) / drawn
    for index in range(drawn):
        top = 168 + index * (height + 10)
        canvas.box(446, top, 210, height)
        canvas.text(458, top + 20, f"Macro {index}", "head")
        canvas.text(538, top + 20, f"{config.macro.banks} banks", "small", soft=True)
        for place in range(min(config.macro.sub_macros, 6)):
            canvas.fill(458 + place * 32, top + 29, 26, 24, "weight")


def _draw_results(canvas: Canvas, config: AcceleratorConfig) -> None:
    """Where results go out."""
    beat = config.macro.result_port * SUM_BITS
    canvas.arrow([(666, 309), (728, 309)], "sum", wide=True)
    canvas.text(696, 300, f"{beat} bits", "small", anchor="middle", soft=True, room=62)
    canvas.text(696, 328, "each", "small", anchor="middle", soft=True)
    canvas.block(730, 274, 142, 70, "sum", "Result merger", ["by run, vector and", "macro → bus words"])
    canvas.arrow([(872, 309), (896, 309)], "sum", wide=True)
    canvas.text(904, 304, "results", "head", kind="sum")
    canvas.text(904, 321, f"{config.result_bus} bits", "small", soft=True)
    canvas.text(904, 340, "m_axis_", "code", soft=True)
    canvas.text(904, 356, "results_*", "code", soft=True)
    split = [
        "Outputs are split: tile t of a layer is",
        f"in macro t mod {config.macros}. Activations",
        "go to all macros at once.",
    ]
    canvas.lines(712, 412, split)
