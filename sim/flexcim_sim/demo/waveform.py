"""The waveform of the recorded vector: what the pins of each stream showed, cycle by cycle, and its phases above."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from flexcim_sim.bench.ends.trace import StreamTrace
from flexcim_sim.demo.report import PhaseReport, VectorReport
from flexcim_sim.demo.svg import COLOURS, drawing, inline_svg

__all__ = ["STREAMS", "offers", "waveform_figure"]

STREAMS = ("load", "weights", "run", "activations", "results")
"""The streams that are drawn, from the top down, as data flows."""

_CYCLE_INCHES, _ROW_INCHES = 0.26, 0.22

_HIGH, _LOW = 0.2, 0.8
"""Where in its row a signal is 1, and where 0; rows count downwards."""

_SLOPE = 0.1
"""Cycles in which a bus changes."""


def waveform_figure(vector: VectorReport) -> str:
    """The traces of a vector that passed, from cycle 0 to shortly after its last result."""
    cycles = len(vector.traces["results"].valid)
    names = ["clk", *(f"{stream}.{pin}" for stream in STREAMS for pin in ("valid", "ready", "payload"))]
    with drawing():
        size = 1.6 + _CYCLE_INCHES * cycles, 0.6 + _ROW_INCHES * (len(names) + 2)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        axes.set_xlim(0, cycles)
        axes.set_ylim(len(names) + 1.2, -0.1)
        _draw_phases(axes, vector.phases, len(names) + 1.2)
        clock = [level for _ in range(cycles) for level in (True, False)]
        _draw_level(axes, 1.2, clock, 0.5, COLOURS["muted"])
        for index, stream in enumerate(STREAMS):
            trace, row = vector.traces[stream], 2.2 + 3 * index
            _draw_level(axes, row, trace.valid)
            _draw_level(axes, row + 1, trace.ready)
            _draw_payload(axes, row + 2, trace)
        axes.set_yticks([1.7 + row for row in range(len(names))], names, fontsize=8)
        axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
        shown = range(0, cycles, 2)
        axes.set_xticks([cycle + 0.5 for cycle in shown], [str(cycle) for cycle in shown], fontsize=8)
        axes.tick_params(axis="x", length=0)
        axes.set_xlabel("cycle; the first command is taken in cycle 0")
        axes.spines[:].set_visible(False)
        axes.vlines(range(cycles + 1), 1, len(names) + 1.2, color=COLOURS["grid"], linewidth=0.4, zorder=0)
    return inline_svg(figure, "waveform", f"Waveform of one vector on {vector.preset} {vector.cells}, {cycles} cycles")


def _draw_phases(axes: Axes, phases: Sequence[PhaseReport], bottom: float) -> None:
    """A bar above all signals for each phase; where the array computes, a band goes down through them."""
    # Commands and vector come while the weights do, which take longest.
    for phase in phases:
        if phase.name in ("commands", "vector"):
            continue
        computes = phase.name == "slices"
        colour = COLOURS["ours" if computes else "soft"]
        axes.add_patch(Rectangle((phase.first + 0.05, 0), phase.cycles - 0.1, 0.8, facecolor=colour))
        if computes:
            axes.add_patch(Rectangle((phase.first, 0.8), phase.cycles, bottom - 0.8, facecolor=colour, alpha=0.12))
        if phase.cycles > 2:
            place, side = phase.first + phase.cycles / 2, "center"
        elif phase is phases[-1]:
            place, side = phase.last + 1.1, "left"
        else:
            continue
        ink = COLOURS["surface" if computes else "ink"]
        axes.text(place, 0.42, phase.name, ha=side, va="center", fontsize=8, color=ink, clip_on=False)


def _draw_level(axes: Axes, row: float, levels: Sequence[bool], width: float = 1, colour: str = COLOURS["ink"]) -> None:
    """A one-bit signal whose levels last for ``width`` cycles each."""
    places = [row + (_HIGH if level else _LOW) for level in levels]
    axes.step(
        [index * width for index in range(len(places) + 1)], [*places, places[-1]], where="post", color=colour, lw=1
    )


def offers(trace: StreamTrace) -> Iterator[tuple[int, int]]:
    """First and last cycle in which each beat is offered; it moves in the last one."""
    first = None
    for cycle, (valid, ready) in enumerate(zip(trace.valid, trace.ready, strict=True)):
        if valid and first is None:
            first = cycle
        if valid and ready:
            assert first is not None, "a beat that moves is valid"
            yield first, cycle
            first = None


def _draw_payload(axes: Axes, row: float, trace: StreamTrace) -> None:
    """A bus, in which the beats that are offered have their numbers."""
    axes.hlines(row + (_HIGH + _LOW) / 2, 0, len(trace.valid), color=COLOURS["grid"], linewidth=0.8, zorder=1)
    high, middle, low = row + _HIGH - 0.08, row + (_HIGH + _LOW) / 2, row + _LOW + 0.08
    for number, (first, last) in enumerate(offers(trace)):
        left, right = first, last + 1
        corners = [
            (left, middle),
            (left + _SLOPE, high),
            (right - _SLOPE, high),
            (right, middle),
            (right - _SLOPE, low),
            (left + _SLOPE, low),
        ]
        axes.add_patch(Polygon(corners, facecolor=COLOURS["soft"], edgecolor=COLOURS["ours"], linewidth=0.8, zorder=2))
        axes.text((left + right) / 2, middle + 0.02, str(number), ha="center", va="center", fontsize=7, zorder=3)
