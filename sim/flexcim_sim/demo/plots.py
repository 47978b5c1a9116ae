"""The report's figures: how dense each layer is, and what it costs."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import chain

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flexcim_sim.demo.report import ModelReport, Report, short_name

__all__ = ["cycles_figure", "density_figure"]

_SPARSE, _DENSE, _MARK, _TARGET = "tab:blue", "lightgrey", "black", "tab:red"


def density_figure(report: Report) -> bytes:
    """A PNG of each layer's share of weights that are not zero."""

    def draw(axes: Axes, model: ModelReport) -> None:
        density = [1 - layer.sparsity for layer in model.layers]
        bars = axes.bar(range(len(density)), density, color=_SPARSE)
        axes.bar_label(bars, [layer.pattern for layer in model.layers], fontsize=8, padding=1)
        target, kept = 1 - model.sparsity_target, 1 - model.sparsity
        axes.axhline(target, color=_TARGET, linestyle="--", label=f"target, at most {target:.1%} of all weights")
        axes.axhline(kept, color=_MARK, linestyle=":", label=f"kept, {kept:.1%} of all weights")
        axes.set_ylim(0, 1.15)
        axes.set_ylabel("density")

    return _png(report, "Density of each layer, with its pattern", draw)


def cycles_figure(report: Report) -> bytes:
    """A PNG of each layer's cycles on the macro and on the dense instance; those measured in RTL are marked."""

    def draw(axes: Axes, model: ModelReport) -> None:
        width = 0.4
        dense = [layer.cycles_dense_model for layer in model.layers]
        sparse = [layer.cycles_model for layer in model.layers]
        places = range(len(model.layers))
        axes.bar([place - width / 2 for place in places], dense, width, color=_DENSE, label="dense, cycle model")
        axes.bar([place + width / 2 for place in places], sparse, width, color=_SPARSE, label="flexcim, cycle model")
        marks: list[tuple[float, int]] = []
        for place, layer in enumerate(model.layers):
            entry = report.measured(model, layer)
            if entry is not None:
                marks.append((place - width / 2, entry.dense.cycles_rtl))
                marks.append((place + width / 2, entry.sparse.cycles_rtl))
        axes.plot([x for x, _ in marks], [y for _, y in marks], "D", color=_MARK, markersize=5, label="RTL, measured")
        axes.set_ylabel(f"cycles for {report.vectors} vectors")

    return _png(report, f"Cycles of each layer on {report.cells} cells", draw)


def _png(report: Report, title: str, draw: Callable[[Axes, ModelReport], None]) -> bytes:
    """A figure with a row for each model, whose layers lie along the horizontal axis."""
    figure = Figure(figsize=(11, 4 * len(report.models)), layout="constrained")
    figure.suptitle(title)
    rows = chain.from_iterable(figure.subplots(len(report.models), squeeze=False))
    for axes, model in zip(rows, report.models, strict=True):
        axes.set_ymargin(0.2)  # room for the legend
        draw(axes, model)
        names = [short_name(layer.name) for layer in model.layers]
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_xmargin(0.01)
        axes.set_title(model.name)
        axes.legend(loc="upper right", ncols=3, fontsize=8)
    file = io.BytesIO()
    # Without the version of Matplotlib, equal figures are equal files.
    figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    return file.getvalue()
