"""The figure of a model's cycles."""

from __future__ import annotations

import io
from collections.abc import Mapping
from types import MappingProxyType

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from flexcim.compiler.report import CyclesReport, PhaseCost

__all__ = ["FORMATS", "cycles_figure"]

# Without the version of Matplotlib and the time, equal figures are equal files.
FORMATS: Mapping[str, Mapping[str, None]] = MappingProxyType(
    {
        ".png": {"Software": None},
        ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        ".svg": {"Date": None, "Creator": None},
    }
)
"""Endings of the files that a figure may be, each with the metadata that it goes without."""

_COLOURS = {"compute": "tab:blue", "weights": "tab:orange", "activations": "tab:green", "results": "tab:red"}


def cycles_figure(report: CyclesReport, ending: str = ".png") -> bytes:
    """A picture: for each phase, the cycles of each layer, coloured by what bounds it, and all layers elsewhere.

    Parameters
    ----------
    report : CyclesReport
        What is drawn.
    ending : str, optional
        The ending of the file that it is for, one of `FORMATS`.
    """
    figure = Figure(figsize=(14, 4.5 * len(report.phases)), layout="constrained")
    rows = figure.subplots(len(report.phases), 2, squeeze=False, width_ratios=[3, 1])
    for (layers, others), phase in zip(rows, report.phases, strict=True):
        _draw_layers(layers, phase)
        _draw_comparisons(others, phase)
    handles = [Patch(color=colour, label=f"bound by {name}") for name, colour in _COLOURS.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "flexcim"}):  # names in an SVG are random otherwise
        figure.savefig(file, format=ending[1:], dpi=120, metadata=dict(FORMATS[ending]))
    return file.getvalue()


def _draw_layers(axes: Axes, phase: PhaseCost) -> None:
    layers = phase.layers
    bars = axes.bar(
        range(len(layers)),
        [layer.cycles for layer in layers],
        color=[_COLOURS[layer.bound] for layer in layers],
    )
    axes.bar_label(bars, [f"{layer.pattern}\n{layer.utilisation:.0%}" for layer in layers], fontsize=7, padding=1)
    axes.set_ymargin(0.2)
    axes.set_xmargin(0.01)
    axes.set_ylabel("cycles")
    vectors = f"{phase.vectors} vector{'s' if phase.vectors > 1 else ''}"
    axes.set_title(f"{phase.name}, {vectors}: pattern and utilisation of each layer")
    names = [layer.name for layer in layers]
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=7)


def _draw_comparisons(axes: Axes, phase: PhaseCost) -> None:
    entries = [("this accelerator", phase.cycles)]
    entries += [(one.name, one.cycles) for one in phase.comparisons if one.cycles is not None]
    bars = axes.barh(range(len(entries)), [cycles for _, cycles in entries], color="tab:gray")
    axes.bar_label(bars, [f"{cycles:,}" for _, cycles in entries], fontsize=7, padding=1)
    axes.set_yticks(range(len(entries)), [name for name, _ in entries], fontsize=8)
    axes.invert_yaxis()
    axes.set_xmargin(0.25)
    axes.set_xlabel("cycles of all layers")
