"""The figure of areas: a stack of blocks for each instance."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flexcim_hw.silicon.blocks import BLOCKS
from flexcim_hw.silicon.instance import Instance
from flexcim_hw.silicon.library import CellLibrary

__all__ = ["area_figure"]


def area_figure(instances: Sequence[Instance], library: CellLibrary) -> bytes:
    """An SVG: the area of each instance by block, memories apart on the left, with them as flip-flops on the right."""
    shown = [name for name in BLOCKS if any(name in _areas(one, "total") for one in instances)]
    palette = matplotlib.colormaps["tab20"]
    colours = {name: palette(place) for place, name in enumerate(shown)}
    figure = Figure(figsize=(5 + 1.2 * len(instances), 5.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _stack(left, instances, "logic", colours)
    left.set_title("memories apart")
    _stack(right, instances, "total", colours)
    right.set_title("memories as flip-flops")
    left.set_ylabel("area, mm²")
    figure.suptitle(f"{library.name}, {library.corner}; no wires", fontsize=9)
    handles, names = right.get_legend_handles_labels()
    figure.legend(handles[::-1], names[::-1], loc="outside right upper", fontsize=8)
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "flexcim"}):  # names in an SVG are random otherwise
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _areas(one: Instance, kind: str) -> dict[str, float]:
    return {block.block: getattr(block, kind) for block in one.area.blocks}


def _stack(
    axes: Axes, instances: Sequence[Instance], kind: str, colours: dict[str, tuple[float, float, float, float]]
) -> None:
    places = range(len(instances))
    bottom = [0.0] * len(instances)
    for block, colour in colours.items():
        heights = [_areas(one, kind).get(block, 0.0) / 1e6 for one in instances]
        axes.bar(places, heights, 0.7, bottom=bottom, color=colour, label=block)
        bottom = [below + height for below, height in zip(bottom, heights, strict=True)]
    axes.set_xticks(places, [one.name for one in instances], rotation=45, ha="right", rotation_mode="anchor")
