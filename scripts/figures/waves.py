"""Timing of the macro, from its RTL: a small instance runs in Amaranth's simulator, and its ports are watched.

The instance is the generator's, the products are compared with NumPy's, and the cycles with the exact cycle model, so
the picture cannot say what the hardware does not do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from amaranth.sim import Simulator

from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.macro.beats import (
    activation_beats,
    activation_payloads,
    result_elements,
    weight_beats,
    weight_payloads,
)
from flexcim.macro.cycles import PIPELINE_CYCLES, program_cycles, result_entries
from flexcim.packed.cells import pack_layer, tile_activations
from flexcim.packed.tiling import LayerTiling, tile_layer
from flexcim_hw.macro.macro import Macro
from scripts.figures.canvas import Canvas, Kind

__all__ = ["Recording", "draw_stall", "draw_timing", "record"]

CONFIG = MacroConfig(
    sub_macros=2,
    rows=4,
    columns=4,
    bits_per_cycle=2,
    activation_port=8,
    result_port=2,
    accumulator_depth=8,
    patterns=(Pattern(1, 1), Pattern(2, 4)),
)
"""Small enough to draw every beat."""

PATTERN = Pattern(2, 4)
OUTPUTS = 8
VECTORS = 3
INPUTS = ("load", "weights", "run", "activations")
_LEFT, _TOP, _PITCH, _ROW = 124.0, 62.0, 17.8, 44.0


@dataclass
class Recording:
    """What was seen at the ports, cycle by cycle; cycle 0 takes the first commands.

    Parameters
    ----------
    config : MacroConfig
        The instance.
    moved, waited : dict of list of int
        By stream: the cycles in which a payload moved; those in which one was there and was not taken.
    paused : list of int
        The cycles in which the sink of the results was not ready.
    started, issued : list of int
        The cycles in which vectors started, and in which slices were issued.
    """

    config: MacroConfig
    moved: dict[str, list[int]] = field(default_factory=dict)
    waited: dict[str, list[int]] = field(default_factory=dict)
    paused: list[int] = field(default_factory=list)
    started: list[int] = field(default_factory=list)
    issued: list[int] = field(default_factory=list)

    @property
    def last(self) -> int:
        """The cycle of the last result."""
        return self.moved["results"][-1]


def record(sink_pauses: Callable[[int], bool] = lambda cycle: False) -> Recording:
    """Run a layer of two output tiles, each with three vectors, on the RTL.

    Parameters
    ----------
    sink_pauses : callable
        Whether the far end of the results pauses in a cycle.

    Raises
    ------
    AssertionError
        If a sum is not NumPy's, or, without pauses, the cycles are not the model's.
    """
    rng = np.random.default_rng(0)
    tiling = tile_layer(CONFIG, OUTPUTS, CONFIG.tile_inputs(PATTERN, 1), PATTERN, groups=1)
    weights = rng.integers(-99, 99, (OUTPUTS, tiling.inputs // 4, 4), np.int8)
    weights[:, :, 2:] = 0
    weights = rng.permuted(weights, axis=2).reshape(OUTPUTS, tiling.inputs)
    vectors = rng.integers(-99, 99, (VECTORS, tiling.inputs), np.int8)
    payloads = _payloads(tiling, weights, vectors)
    recording, beats = _simulate(payloads, VECTORS * OUTPUTS // CONFIG.result_port, sink_pauses)

    sums = result_elements(CONFIG, beats)[0].reshape(2, VECTORS, CONFIG.columns).transpose(1, 0, 2)
    assert (sums.reshape(VECTORS, OUTPUTS) == vectors.astype(np.int32) @ weights.T.astype(np.int32)).all()
    if not recording.paused:
        assert recording.last == program_cycles(CONFIG, tiling.program(VECTORS)).cycles
        assert all(start + 1 in recording.issued for start in recording.started)
    return recording


def _payloads(tiling: LayerTiling, weights: np.ndarray, vectors: np.ndarray) -> dict[str, list[int]]:
    """What goes into each stream."""
    program = tiling.program(len(vectors))
    cells, offsets = pack_layer(tiling, weights)
    beats = [weight_beats(CONFIG, cells[step.tile], offsets[step.tile]) for step in program.load_steps]
    moved = [tile_activations(tiling, tiling.tiles[step.tile], vectors[step.vectors]) for step in program.run_steps]
    return {
        "load": [load.payload() for load in program.loads],
        "weights": [payload for pair in beats for payload in weight_payloads(CONFIG, *pair)],
        "run": [run.payload(CONFIG) for run in program.runs],
        "activations": [
            payload
            for run, part in zip(program.runs, moved, strict=True)
            for payload in activation_payloads(
                CONFIG, activation_beats(CONFIG, run.pattern, run.groups, run.rows, part)
            )
        ],
    }


def _simulate(
    payloads: dict[str, list[int]], results: int, sink_pauses: Callable[[int], bool]
) -> tuple[Recording, list[int]]:
    """Play the streams, and watch the ports until so many result beats have come; returns these, too."""
    macro = Macro(CONFIG)
    streams = (*INPUTS, "results")
    seen = Recording(CONFIG, moved={name: [] for name in streams}, waited={name: [] for name in streams})
    beats: list[int] = []

    async def play(ctx: Any) -> None:
        inputs = {name: getattr(macro, name) for name in INPUTS}
        cycle = 0
        while len(beats) < results:
            for name, port in inputs.items():
                left = payloads[name][len(seen.moved[name]) :]
                ctx.set(port.valid, bool(left))
                if left:
                    ctx.set(port.payload.as_value(), left[0])
            ready = not sink_pauses(cycle)
            ctx.set(macro.results.ready, ready)
            for name, port in (*inputs.items(), ("results", macro.results)):
                if ctx.get(port.valid):
                    (seen.moved if ctx.get(port.ready) else seen.waited)[name].append(cycle)
            if ctx.get(macro.results.valid) and ready:
                beats.append(ctx.get(macro.results.payload.as_value()))
            if not ready:
                seen.paused.append(cycle)
            if ctx.get(macro._sequencer.start):
                seen.started.append(cycle)
            if ctx.get(macro._sequencer.issue):
                seen.issued.append(cycle)
            await ctx.tick()
            cycle += 1

    simulator = Simulator(macro)
    simulator.add_clock(1e-6)
    simulator.add_testbench(play)
    simulator.run()
    return seen, beats


def draw_timing() -> Canvas:
    """A run that nothing pauses."""
    recording = record()
    issue = CONFIG.issue_cycles(PATTERN)
    shape = f"S = {CONFIG.sub_macros}, R = {CONFIG.rows}, C = {CONFIG.columns}, b = {CONFIG.bits_per_cycle}"
    notes = [
        f"A vector is issued for N = T·A/b = {issue} cycles, a {CONFIG.bits_per_cycle}-bit slice in each. "
        f"Its first result leaves {PIPELINE_CYCLES} cycles after its last slice.",
        "Tile B is loaded while the array computes with tile A, so the array goes on without a bubble.",
        "A line without a cell: a payload is offered and waits.",
    ]
    return _draw(recording, "A load, a run", f"two tiles in {PATTERN}, three vectors each, on {shape}", notes)


def draw_stall() -> Canvas:
    """The same run with a sink that pauses."""
    first, last = 15, 30
    recording = record(lambda cycle: first <= cycle <= last)
    entries = result_entries(CONFIG)
    notes = [
        f"Nobody takes results in cycles {first} … {last} (thick line); the macro holds F = {entries} vectors of them.",
        "A vector starts only when its results have room; once started, it never stops. So the array pauses between",
        "vectors, activations wait at the port, and nothing is lost or repeated.",
    ]
    return _draw(recording, "A stall", "the same program, with results that are not taken for a while", notes)


def _draw(recording: Recording, title: str, more: str, notes: Sequence[str]) -> Canvas:
    """The beats of each stream, a cell for a cycle: filled where a payload moves, a line where one waits."""
    cycles = recording.last + 2
    canvas = Canvas(1000, _TOP + 6 * _ROW + 40 + 18 * len(notes), f"{title}: {more}")
    canvas.heading(title, more)
    _draw_grid(canvas, cycles)
    rows: list[tuple[str, Kind]] = [("load", "control"), ("weights", "weight"), ("run", "control")]
    rows += [("activations", "activation"), ("array", "plain"), ("results", "sum")]
    for index, (name, kind) in enumerate(rows):
        top = _TOP + 22 + index * _ROW
        canvas.text(24, top + 19, name, "head", kind=None if kind == "plain" else kind)
        if name == "array":
            _draw_issue(canvas, recording, top)
        else:
            _draw_stream(canvas, recording, name, kind, top)
    canvas.lines(24, _TOP + 6 * _ROW + 42, notes, step=18, room=952)
    return canvas


def _draw_grid(canvas: Canvas, cycles: int) -> None:
    for cycle in range(cycles):
        x = _LEFT + cycle * _PITCH
        if cycle % 5 == 0:
            canvas.text(x + _PITCH / 2, _TOP + 8, str(cycle), "small", anchor="middle", soft=True)
            canvas.fill(x, _TOP + 16, _PITCH - 1, 6 * _ROW - 4, "control")
    canvas.text(24, _TOP + 8, "cycle", "small", soft=True)


def _draw_stream(canvas: Canvas, recording: Recording, name: str, kind: Kind, top: float) -> None:
    for cycle in recording.waited[name]:
        canvas.fill(_LEFT + cycle * _PITCH, top + 13, _PITCH, 2, kind, strong=True)
    if name == "results":
        for cycle in recording.paused:
            canvas.fill(_LEFT + cycle * _PITCH, top + 28, _PITCH, 3, "weight", strong=True)
    for number, cycle in enumerate(recording.moved[name]):
        canvas.box(_LEFT + cycle * _PITCH + 1, top, _PITCH - 2, 26, kind, radius=3)
        per_vector = _beats_per_vector(recording.config).get(name)
        if name in ("load", "run"):
            text = "AB"[number]
        elif per_vector:
            text = str(number // per_vector % VECTORS)
        else:
            text = "AB"[number // (len(recording.moved[name]) // 2)]
        canvas.text(_LEFT + (cycle + 0.5) * _PITCH, top + 18, text, "small", anchor="middle")


def _beats_per_vector(config: MacroConfig) -> dict[str, int]:
    return {
        "activations": config.vector_beats(config.window(PATTERN, 1), config.rows),
        "results": config.result_beats(1),
    }


def _draw_issue(canvas: Canvas, recording: Recording, top: float) -> None:
    """A box for each vector over the cycles in which its slices are issued, and the latency of its results behind."""
    length = recording.config.issue_cycles(PATTERN)
    for number, start in enumerate(recording.started):
        x = _LEFT + (start + 1) * _PITCH
        canvas.box(x + 1, top, length * _PITCH - 2, 26, "memory", radius=3)
        text = f"{'AB'[number // VECTORS]}, vector {number % VECTORS}"
        canvas.text(x + length * _PITCH / 2, top + 18, text, "small", anchor="middle", room=length * _PITCH - 4)
    first = _LEFT + (recording.started[0] + 1 + length) * _PITCH
    canvas.arrow([(first, top + 34), (first + (PIPELINE_CYCLES - 1) * _PITCH, top + 34)], "sum")
