"""The report's tables as plain text, which the terminal and the page share."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from flexcim_sim.demo.report import ModelReport, PhaseReport, Report, RtlReport, VectorReport, short_name

__all__ = ["TextTable", "layer_table", "model_table", "phase_table", "rtl_tables", "text_table"]


@dataclass(frozen=True)
class TextTable:
    """A table.

    Parameters
    ----------
    title : str
        What it shows.
    header : tuple of str
        Names of its columns.
    rows : tuple of tuple of str
        Its rows.
    words : int
        Columns of words, on the left; the others are numbers.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1


def model_table(report: Report) -> TextTable:
    """How sparse each model is, how well it predicts the held-out text, and what all its layers cost."""
    rows = tuple(
        (
            model.name,
            pruned.label,
            f"{pruned.sparsity:.1%}",
            f"{model.bpb_dense:.3f}",
            f"{pruned.bpb_pruned:.3f}",
            f"{pruned.bpb_int8:.3f}",
            f"{pruned.cycles_model:,}",
            f"{pruned.cycles_dense_model:,}",
            f"{pruned.speedup:.2f}",
        )
        for model in report.models
        for pruned in (model.default, model.published)
    )
    header = ("model", "pruned by", "sparsity", "bpb dense", "pruned", "int8", "cycles", "dense", "speed-up")
    return TextTable(
        f"Models: bits per byte (bpb) of {report.evaluated:,} bytes of held-out text; cycles of all layers, "
        f"{report.vectors} vectors each, by the exact cycle model",
        header,
        rows,
        words=2,
    )


def text_table(report: Report) -> TextTable:
    """What each model writes after the prompt."""
    rows = [
        (model.name, name, f"{report.prompt} {text} …")
        for model in report.models
        for name, text in (
            ("dense", model.text_dense),
            (model.default.label, model.default.text),
            (model.published.label, model.published.text),
        )
    ]
    title = "What they write: the most likely token each time; the pruned models in the macro's integers"
    return TextTable(title, ("model", "pruned by", "text"), tuple(rows), words=3)


def layer_table(report: Report, model: ModelReport) -> TextTable:
    """The plan of a model, layer by layer."""
    rows = tuple(
        (
            short_name(layer.name),
            f"{layer.outputs}x{layer.inputs}",
            layer.pattern,
            str(layer.groups),
            str(layer.tiles),
            f"{layer.sparsity:.1%}",
            f"{layer.cycles_model:,}",
            f"{layer.cycles_dense_model:,}",
            f"{layer.cycles_dense_model / layer.cycles_model:.2f}",
            f"{layer.m / layer.n:.2f}",
        )
        for layer in model.layers
    )
    header = ("layer", "shape", "n:m", "groups", "tiles", "sparsity", "cycles", "dense", "speed-up", "m/n")
    return TextTable(f"{model.name}: {len(rows)} layers on {report.cells} cells", header, rows)


def rtl_tables(report: Report) -> list[TextTable]:
    """What the simulated Verilog did, a table for each macro."""

    def title(entry: RtlReport) -> str:
        return f"RTL of {entry.preset} {entry.cells} in {entry.simulator}, {entry.vectors} vectors"

    header = ("model", "layer", "n:m", "outputs", "wrong", "cycles", "predicted", "dense", "speed-up", "m/n")
    return [
        TextTable(name, header, tuple(map(_rtl_row, entries)), words=2)
        for name, entries in groupby(report.rtl, key=title)
    ]


def _rtl_row(entry: RtlReport) -> tuple[str, ...]:
    return (
        entry.model,
        short_name(entry.layer),
        entry.pattern,
        f"{entry.sparse.outputs_compared + entry.dense.outputs_compared:,}",
        f"{entry.sparse.mismatches + entry.dense.mismatches:,}",
        f"{entry.sparse.cycles_rtl:,}",
        f"{entry.sparse.cycles_model:,}",
        f"{entry.dense.cycles_rtl:,}",
        f"{entry.speedup:.2f}",
        f"{entry.limit:.2f}",
    )


def phase_table(vector: VectorReport) -> TextTable:
    """The way of the recorded vector, phase by phase."""
    rows = tuple((phase.name, _span(phase), phase.what) for phase in vector.phases)
    title = f"One vector of {vector.model}, {short_name(vector.layer)}, {vector.pattern}"
    return TextTable(title, ("phase", "cycles", "what happens"), rows, words=3)


def _span(phase: PhaseReport) -> str:
    return str(phase.first) if phase.cycles == 1 else f"{phase.first} to {phase.last}"
