"""The report for readers."""

from __future__ import annotations

from flexcim_sim.demo.report import Report
from flexcim_sim.demo.tables import TextTable, layer_table, model_table, rtl_tables

__all__ = ["CYCLES_PLOT", "DENSITY_PLOT", "markdown"]

DENSITY_PLOT = "density.png"
"""File name of the figure of densities."""

CYCLES_PLOT = "cycles.png"
"""File name of the figure of cycles."""

_MODELS = """\
Bits per byte (bpb) are measured on text that neither training nor calibration has seen: the dense model, the pruned
one, and the pruned one computing in the macro's integers (int8 weights and activations, 32-bit sums). Nothing is
retrained after pruning. The target is a lower bound: a pattern is that of a whole block, so sparsity comes in steps.
Cycles are those of all layers for {vectors} vectors on {cells} cells, by the cycle model, which the runs below hold
against the RTL; *dense* is the dense instance of the same generator with as many cells.
"""

_RTL = """\
Each layer runs whole, with all its tiles: the generated Verilog takes the packed weights and the integers that the
layer gets when the pruned, quantised model reads calibration text. *Outputs* counts the 32-bit results of both macros
that were compared with the golden model and with the integer matrix product of the pruned weights, *wrong* those that
differ. *Cycles* are counted in simulation, *predicted* by the cycle model, *dense* in simulation of the dense
instance, which runs the same pruned weights as 1:1. The speed-up is at equal cells (not at equal area); m/n is what a
pattern gives where it fills its tiles as well as the dense layer does.
"""

_LAYERS = """\
A layer is named by its block's number and its own name; `report.json` has the whole paths and why each pattern was
chosen. Cycles are those of the cycle model.
"""

_FILES = """\
| file | what |
|---|---|
| `report.json` | all numbers of this page |
| `packed/MODEL/` | the packed models: a manifest, and the cells of each layer |
| `rtl/INSTANCE/` | the Verilog of each instance, and a JSON that describes its ports and modes |
| `simulations/` | the logs of the simulators |
"""


def markdown(report: Report) -> str:
    """The report as Markdown, with links to the figures beside it."""
    layers = [layer_table(report, model) for model in report.models]
    parts = [
        "# FlexCiM: pruned models on generated hardware",
        _verdict(report),
        "## Models",
        model_table(report).to_markdown(),
        _MODELS.format(vectors=report.vectors, cells=report.cells),
        "## RTL against the golden model",
        _RTL,
        *map(_titled, rtl_tables(report)),
        "## Layers",
        f"![Density of each layer]({DENSITY_PLOT})",
        f"![Cycles of each layer]({CYCLES_PLOT})",
        _LAYERS,
        *map(_titled, layers),
        "## Files",
        _FILES,
        f"Seed {report.seed}; {report.seconds:.0f} seconds.",
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _titled(table: TextTable) -> str:
    return f"**{table.title}**\n\n{table.to_markdown()}"


def _verdict(report: Report) -> str:
    compared = sum(run.outputs_compared for entry in report.rtl for run in (entry.sparse, entry.dense))
    runs = 2 * len(report.rtl)
    if not report.failures:
        return (
            f"**All is well:** {compared} outputs of {runs} simulations agree bit for bit with the golden model, and "
            f"each simulation takes exactly the cycles that the cycle model predicts."
        )
    return "**Something is wrong:**\n\n" + "\n".join(f"- {failure}" for failure in report.failures)
