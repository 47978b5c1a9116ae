"""``flexcim cycles``: what each layer of a packed model costs on an accelerator, and what bounds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from flexcim.cli.configuration import AcceleratorPreset, Config, chosen_accelerator
from flexcim.cli.console import shown_steps, table_console
from flexcim.config.macro import PRESETS
from flexcim.errors import FlexCiMError
from flexcim.files import check_writable, write_bytes, write_text, writing
from flexcim.packed.plans import NestedPlan

if TYPE_CHECKING:
    from flexcim.compiler.report import CyclesReport, PhaseCost

__all__ = ["cycles"]


class CyclesError(FlexCiMError):
    """A call of ``flexcim cycles`` that cannot be carried out."""


def cycles(
    packed: Annotated[Path, typer.Argument(help="Folder of a packed model, as `flexcim prune` writes it.")],
    config: Config = None,
    preset_name: AcceleratorPreset = None,
    vectors: Annotated[int, typer.Option(min=1, help="Vectors of the prefill; decode has 1.")] = 64,
    plan: Annotated[NestedPlan, typer.Option(help="Of a nested model, the plan of the prefill.")] = NestedPlan.DENSER,
    decode_plan: Annotated[
        NestedPlan | None, typer.Option(help="The plan of decode. \\[default: that of the prefill]")
    ] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a figure to this file: .png, .pdf or .svg.")] = None,
) -> None:
    """Tell what each layer of a packed model costs on an accelerator, for prefill and for decode.

    Cycles are those of the exact cycle model, which the RTL takes. The bound is the part that is busiest: the arrays
    (compute), the weight stream, the activation stream or the result stream. The same layers are compiled for each
    preset's macro within the same buses, too; a pattern that its menu lacks runs as a dense one there. The paper's
    storage is an analytical figure, in which latency costs nothing. Bytes / int8 is what streams over the weight bus,
    offsets included, against the dense int8 matrix. A nested model (`flexcim nest`) may have one plan in prefill and
    the other in decode.

    Example: `flexcim cycles build/packed --preset accelerator-4 --json cycles.json --plot cycles.png`
    """
    from flexcim.compiler.model import LayerShape, layer_shapes
    from flexcim.compiler.report import measure_model, phase_vectors
    from flexcim.packed.folder import read_packed

    accelerator = chosen_accelerator(config, preset_name)
    model = read_packed(packed)
    _check_outputs(as_json, plot)

    def shapes(chosen: NestedPlan) -> tuple[list[LayerShape], list[LayerShape]]:
        """The layers as the accelerator can run them, and as they are."""
        under = model.under(chosen)
        originals = [LayerShape(name, one.outputs, one.inputs, *one.patterns) for name, one in under.tilings.items()]
        return layer_shapes(under, accelerator), originals

    with shown_steps(len(phase_vectors(vectors)) * (1 + len(PRESETS))) as steps:
        report = measure_model(accelerator, *shapes(plan), vectors, steps.done, decode=shapes(decode_plan or plan))
    console = table_console()
    for phase in report.phases:
        console.print(_layer_table(phase))
        console.print(_comparison_table(phase))
    _write(report, as_json, plot)


def _check_outputs(as_json: Path | None, plot: Path | None) -> None:
    """Look before the work for whatever would keep its files from being written."""
    if plot:
        from flexcim.compiler.plots import FORMATS

        if plot.suffix.lower() not in FORMATS:
            raise CyclesError(f"{plot}: the name of a figure must end in one of {', '.join(FORMATS)}")
    for path in (as_json, plot):
        if path:
            with writing(path, CyclesError):
                check_writable(path)


def _write(report: CyclesReport, as_json: Path | None, plot: Path | None) -> None:
    if as_json:
        with writing(as_json, CyclesError):
            write_text(as_json, json.dumps(report.to_mapping(), indent=1, allow_nan=False) + "\n")
        print(f"written: {as_json}")
    if plot:
        from flexcim.compiler.plots import cycles_figure

        figure = cycles_figure(report, plot.suffix.lower())
        with writing(plot, CyclesError):
            write_bytes(plot, figure)
        print(f"written: {plot}")


def _layer_table(phase: PhaseCost) -> Table:
    right = ("cycles", "utilisation", "compute", "weights", "activations", "results")
    table = Table(
        Column("layer", overflow="fold"),
        "shape",
        "pattern",
        "G",
        *(Column(name, justify="right") for name in right),
        "bound by",
        Column("bytes / int8", justify="right"),
        title=f"{phase.name}, {phase.vectors} vector{'s' if phase.vectors > 1 else ''}",
        title_justify="left",
    )
    for layer in phase.layers:
        table.add_row(
            layer.name,
            f"{layer.outputs} × {layer.inputs}",
            layer.pattern,
            str(layer.groups),
            f"{layer.cycles:,}",
            f"{layer.utilisation:.1%}",
            *(f"{layer.busy[name]:,}" for name in right[2:]),
            layer.bound + (", resident" if layer.resident else ""),
            f"{layer.weight_bytes / layer.dense_bytes:.2f}",
        )
    table.add_section()
    table.add_row("all layers", "", "", "", f"{phase.cycles:,}", f"{phase.utilisation:.1%}")
    return table


def _comparison_table(phase: PhaseCost) -> Table:
    table = Table(
        "macro",
        *(Column(name, justify="right") for name in ("cells", "cycles", "of this accelerator's cycles")),
        title=f"{phase.name} elsewhere, with the same buses and number of macros",
        title_justify="left",
    )
    for one in phase.comparisons:
        cycles = "cannot run it" if one.cycles is None else f"{one.cycles:,}"
        ratio = "" if one.cycles is None else f"{one.cycles / phase.cycles:.2f}"
        table.add_row(one.name, f"{one.cells:,}", cycles, ratio)
    return table
