"""The house: four packages, and the floors of rooms inside each."""

from __future__ import annotations

from collections.abc import Mapping

from scripts.figures.canvas import Canvas, Kind

__all__ = ["FLOORS", "draw_house"]

FLOORS: Mapping[str, Mapping[str, str]] = {
    "flexcim_flow": {
        "cli": "prune, compare, nest",
        "compare": "ways of pruning, side by side",
        "nest": "a second, denser plan",
        "prune": "a request, block by block",
        "choice": "a pattern for each layer",
        "measure": "loss, accuracy",
        "layer": "scores, masks, updates",
        "passes": "statistics on the way",
        "samples": "text, images",
        "model": "blocks, weights on disk",
        "common": "options, seeds, journal",
    },
    "flexcim_hw": {
        "cli": "generate, silicon",
        "silicon": "area, clock",
        "verilog": "Verilog, interface",
        "accelerator": "buses, sequencer, registers",
        "macro": "the blocks, in data-flow order",
        "common": "payloads, shared modules",
    },
    "flexcim_sim": {
        "cli": "verify, generate-text, demo",
        "demo": "from checkpoint to report",
        "runtime": "models on a backend",
        "bench.run": "runner, results",
        "bench.played": "what cocotb plays",
        "bench.benches": "drivers, checker",
        "bench.stimuli": "random, aimed, illegal",
        "bench.coverage": "what was seen",
        "bench.ends": "streams, AXI",
        "build": "simulators, libraries",
        "golden": "NumPy twin of each block",
    },
    "flexcim": {
        "cli": "the command",
        "compiler": "layers → programs",
        "accelerator": "programs, registers",
        "packed": "slots, tiles",
        "macro": "commands, cycles",
        "config": "parameters",
    },
}
"""The rooms of each package from the top floor down, with a few words for each."""

_WINGS: Mapping[str, tuple[str, Kind]] = {
    "flexcim_flow": ("flow/", "weight"),
    "flexcim_hw": ("hw/", "control"),
    "flexcim_sim": ("sim/", "memory"),
}
_ROOM = 26.0
_GROUND = 390.0


def draw_house() -> Canvas:
    """Three wings on a ground floor; whoever stands higher may import who stands below."""
    canvas = Canvas(1000, 506, "The house: four packages, and the rooms inside each, from the top floor down")
    canvas.heading(
        "The house",
        "imports go down, never up; the wings meet in the bench, which drives the hardware, and in the demo",
    )
    for index, (package, (folder, kind)) in enumerate(_WINGS.items()):
        left, rooms = 24.0 + index * 320, FLOORS[package]
        top = _GROUND - 12 - len(rooms) * _ROOM
        canvas.text(left + 4, top - 8, folder, "head")
        canvas.text(left + 60, top - 8, package, "code", soft=True)
        for floor, (room, words) in enumerate(rooms.items()):
            y = top + floor * _ROOM
            canvas.box(left, y, 312, _ROOM - 3, kind, radius=4)
            canvas.text(left + 10, y + 16, room, "small")
            canvas.text(left + 116, y + 16, words, "small", soft=True, room=194)
    canvas.box(24, _GROUND, 952, 92, "sum")
    canvas.text(36, _GROUND + 22, "flexcim/", "head")
    canvas.text(112, _GROUND + 22, "the contract, as code, and the compiler; top floor at the left", "small", soft=True)
    rooms = FLOORS["flexcim"]
    width = 928 / len(rooms)
    for place, (room, words) in enumerate(rooms.items()):
        x = 36 + place * width
        canvas.box(x, _GROUND + 34, width - 6, 46, radius=4)
        canvas.text(x + width / 2 - 3, _GROUND + 53, room, "small", anchor="middle", room=width - 10)
        canvas.text(x + width / 2 - 3, _GROUND + 70, words, "small", anchor="middle", soft=True, room=width - 10)
    return canvas
