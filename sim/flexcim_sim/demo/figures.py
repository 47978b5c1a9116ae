"""The page's figures: what pruning costs each model, how dense each layer is, and what it costs."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flexcim_sim.demo.report import ModelReport, Report, short_name
from flexcim_sim.demo.svg import COLOURS, drawing, inline_svg

__all__ = ["layers_figure", "models_figure"]

_WIDTH = 7.6
"""Inches, of 72 pixels each: what fits beside the margins of a page for reading."""

_LAYER_INCHES = 0.3
"""Width that each layer gets at least, so that its pattern can be read."""


def models_figure(report: Report) -> str:
    """Bits per byte of each model: dense, and pruned both ways in the macro's integers."""
    with drawing():
        figure = Figure(figsize=(_WIDTH, 0.7 + 0.85 * len(report.models)), layout="constrained")
        axes = figure.subplots()
        shown = [
            ("dense", "dense", [model.bpb_dense for model in report.models]),
            ("ours", report.models[0].default.label, [model.default.bpb_int8 for model in report.models]),
            ("published", report.models[0].published.label, [model.published.bpb_int8 for model in report.models]),
        ]
        height = 0.26
        for index, (colour, label, values) in enumerate(shown):
            places = [place + (index - 1) * height for place in range(len(values))]
            bars = axes.barh(places, values, height * 0.9, color=COLOURS[colour], label=label)
            axes.bar_label(bars, [f"{value:.3f}" for value in values], padding=3, fontsize=8)
        axes.set_yticks(range(len(report.models)), [model.name for model in report.models])
        axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
        axes.invert_yaxis()
        axes.set_xmargin(0.1)
        axes.set_xlabel("bits per byte of held-out text; less is better")
        axes.grid(axis="x")
        figure.legend(loc="outside upper left", ncols=3, fontsize=8)
    return inline_svg(figure, "models", "Bits per byte of each model, dense and pruned in two ways")


def layers_figure(report: Report, model: ModelReport, name: str) -> str:
    """Density and cycles of each layer of a model; cycles that were measured in RTL are marked.

    Parameters
    ----------
    report : Report
        The report.
    model : ModelReport
        One of its models.
    name : str
        What the figure's ids begin with.
    """
    names = [short_name(layer.name) for layer in model.layers]
    with drawing():
        width = max(_WIDTH, 1 + _LAYER_INCHES * len(names))
        figure = Figure(figsize=(width, 4.6), layout="constrained")
        above, below = figure.subplots(2, sharex=True, height_ratios=(2, 3))
        _draw_density(above, model)
        _draw_cycles(below, report, model)
        below.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
        below.set_xmargin(0.01)
    return inline_svg(figure, name, f"Density and cycles of each layer of {model.name}")


def _draw_density(axes: Axes, model: ModelReport) -> None:
    density = [1 - layer.sparsity for layer in model.layers]
    bars = axes.bar(range(len(density)), density, color=COLOURS["ours"])
    plate = {"facecolor": COLOURS["surface"], "edgecolor": "none", "pad": 0.5}
    axes.bar_label(bars, [layer.pattern for layer in model.layers], fontsize=7, padding=2, bbox=plate)
    most = 1 - model.sparsity_target
    line = axes.axhline(most, color=COLOURS["ink"], linestyle="--", linewidth=1, label=f"at most {most:.0%} of all")
    line.set_zorder(0.9)
    axes.set_ylim(0, 1.3)
    axes.set_yticks((0, 0.5, 1))
    axes.set_ylabel("weights kept")
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y")
    axes.legend(loc="upper right", fontsize=8)


def _draw_cycles(axes: Axes, report: Report, model: ModelReport) -> None:
    width = 0.4
    dense = [layer.cycles_dense_model for layer in model.layers]
    sparse = [layer.cycles_model for layer in model.layers]
    places = range(len(model.layers))
    axes.bar([place - width / 2 for place in places], dense, width, color=COLOURS["dense"], label="dense instance")
    axes.bar([place + width / 2 for place in places], sparse, width, color=COLOURS["ours"], label="flexcim")
    marks: list[tuple[float, int]] = []
    for place, layer in enumerate(model.layers):
        entry = report.measured(model, layer)
        if entry is not None:
            marks.append((place - width / 2, entry.dense.cycles_rtl))
            marks.append((place + width / 2, entry.sparse.cycles_rtl))
    axes.plot(
        [x for x, _ in marks], [y for _, y in marks], "D", color=COLOURS["ink"], markersize=3.5, label="measured in RTL"
    )
    axes.set_ymargin(0.25)  # room for the legend
    axes.set_ylabel(f"cycles, {report.vectors} vectors")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="y")
    axes.legend(loc="upper right", ncols=3, fontsize=8)
