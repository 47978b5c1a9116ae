"""The report's tables as plain text, which the terminal and the Markdown share."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from flexcim_sim.demo.report import ModelReport, Report, RtlReport, short_name

__all__ = ["TextTable", "layer_table", "model_table", "rtl_tables"]


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

    def to_markdown(self) -> str:
        """The table in Markdown, without its title."""
        rules = ("---",) * self.words + ("---:",) * (len(self.header) - self.words)
        return "".join(f"| {' | '.join(row)} |\n" for row in (self.header, rules, *self.rows))


def model_table(report: Report) -> TextTable:
    """How sparse each model is, how well it predicts the held-out text, and what all its layers cost."""
    rows = []
    for model in report.models:
        cycles = sum(layer.cycles_model for layer in model.layers)
        dense = sum(layer.cycles_dense_model for layer in model.layers)
        rows.append(
            (
                model.name,
                f"{model.sparsity_target:.1%}",
                f"{model.sparsity:.1%}",
                f"{model.bpb_dense:.4f}",
                f"{model.bpb_pruned:.4f}",
                f"{model.bpb_int8:.4f}",
                str(cycles),
                str(dense),
                f"{dense / cycles:.2f}",
            )
        )
    header = ("model", "target", "sparsity", "bpb dense", "bpb pruned", "bpb int8", "cycles", "dense", "speed-up")
    return TextTable(
        f"Models: bits per byte of the held-out text; cycles of all layers, {report.vectors} vectors each, by the "
        f"exact cycle model",
        header,
        tuple(rows),
    )


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
            str(layer.cycles_model),
            str(layer.cycles_dense_model),
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
        str(entry.sparse.outputs_compared + entry.dense.outputs_compared),
        str(entry.sparse.mismatches + entry.dense.mismatches),
        str(entry.sparse.cycles_rtl),
        str(entry.sparse.cycles_model),
        str(entry.dense.cycles_rtl),
        f"{entry.speedup:.2f}",
        f"{entry.limit:.2f}",
    )
