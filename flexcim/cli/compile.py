"""``flexcim compile`` and ``flexcim cycles``: a packed model for an accelerator, and what it costs there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from flexcim.config.accelerator import ACCELERATOR_PRESETS, AcceleratorConfig, accelerator_preset
from flexcim.config.macro import PRESETS
from flexcim.errors import FlexCiMError
from flexcim.files import check_writable, write_bytes, write_text
from flexcim.packed.plans import NestedPlan

if TYPE_CHECKING:
    from flexcim.compiler.report import CyclesReport, PhaseCost

__all__ = ["compile_packed", "cycles"]

_PIPED_WIDTH = 175
"""Width of the tables where nobody says how wide a line may be."""

Packed = Annotated[Path, typer.Argument(help="Folder of a packed model, as `flexcim prune` writes it.")]
Config = Annotated[
    Path | None,
    typer.Option(help='TOML file: an optional preset = "NAME", and tables "macro" and "accelerator".'),
]
Preset = Annotated[
    str, typer.Option("--preset", help=f"Without --config: one of {', '.join((*ACCELERATOR_PRESETS, *PRESETS))}.")
]


class CompileCommandError(FlexCiMError):
    """A call of these commands that cannot be carried out."""


def compile_packed(
    packed: Packed,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; a compiled model is replaced.")],
    config: Config = None,
    preset_name: Preset = "accelerator",
    vectors: Annotated[int, typer.Option(min=1, help="Vectors of a pass: 1 for decode, the tokens of a prefill.")] = 1,
    plan: Annotated[NestedPlan, typer.Option(help="Of a nested model, the plan to compile.")] = NestedPlan.DENSER,
) -> None:
    """Compile a packed model: programs, weight images, and a JSON of the schedule.

    For each layer, the exact cycle model chooses the output groups, the macros of a run, how vectors are cut, and
    whether tiles are kept or loaded again. Layers that fit stay on the chip where that saves cycles; the others stream.

    Example: `flexcim compile build/packed --preset accelerator-4 --vectors 64 -o build/compiled`
    """
    from flexcim.compiler.model import compile_model, layer_shapes
    from flexcim.compiler.output import SCHEDULE, check_compiled, write_compiled
    from flexcim.packed.folder import read_packed

    accelerator = _accelerator(config, preset_name)
    model = read_packed(packed).under(plan)
    shapes = layer_shapes(model, accelerator)
    check_compiled(output)
    with _progress(len(shapes)) as done:
        layers = compile_model(accelerator, shapes, vectors, done)
        write_compiled(output, accelerator, model, layers)
    table = Table("layer", "shape", "pattern", "G", "macros", "chunk", "programs", "cycles", "bound by", "weights")
    for name, layer in layers.items():
        table.add_row(
            name,
            f"{layer.tiling.outputs} × {layer.tiling.inputs}",
            layer.tiling.pattern_names,
            str(layer.mapping.groups),
            str(layer.mapping.width),
            str(min(layer.mapping.chunk, vectors)),
            str(len(layer.programs)),
            f"{layer.cycles.cycles:,}",
            layer.schedule.bounds(accelerator).by,
            "stay" if layer.resident else "stream",
        )
    console = _console()
    console.print(table)
    total = sum(layer.cycles.cycles for layer in layers.values())
    console.print(f"{total:,} cycles for {vectors} vector{'s' if vectors > 1 else ''} of each layer")
    print(f"written: {output / SCHEDULE}")


def cycles(
    packed: Packed,
    config: Config = None,
    preset_name: Preset = "accelerator",
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

    accelerator = _accelerator(config, preset_name)
    model = read_packed(packed)
    _check_outputs(as_json, plot)

    def shapes(chosen: NestedPlan) -> tuple[list[LayerShape], list[LayerShape]]:
        """The layers as the accelerator can run them, and as they are."""
        under = model.under(chosen)
        originals = [LayerShape(name, one.outputs, one.inputs, *one.patterns) for name, one in under.tilings.items()]
        return layer_shapes(under, accelerator), originals

    with _progress(len(phase_vectors(vectors)) * (1 + len(PRESETS))) as done:
        report = measure_model(accelerator, *shapes(plan), vectors, done, decode=shapes(decode_plan or plan))
    console = _console()
    for phase in report.phases:
        console.print(_layer_table(phase))
        console.print(_comparison_table(phase))
    _write(report, as_json, plot)


def _check_outputs(as_json: Path | None, plot: Path | None) -> None:
    """Look before the work for whatever would keep its files from being written."""
    if plot:
        from flexcim.compiler.plots import FORMATS

        if plot.suffix.lower() not in FORMATS:
            raise CompileCommandError(f"{plot}: the name of a figure must end in one of {', '.join(FORMATS)}")
    for path in (as_json, plot):
        if path:
            _check_output(path)


def _check_output(path: Path) -> None:
    try:
        check_writable(path)
    except OSError as error:
        where = "" if error.filename == str(path) else f"{error.filename}: "
        raise CompileCommandError(f"{path}: cannot be written ({where}{error.strerror})") from None


def _write(report: CyclesReport, as_json: Path | None, plot: Path | None) -> None:
    if as_json:
        with _output_errors(as_json):
            write_text(as_json, json.dumps(report.to_mapping(), indent=1, allow_nan=False) + "\n")
        print(f"written: {as_json}")
    if plot:
        from flexcim.compiler.plots import cycles_figure

        figure = cycles_figure(report, plot.suffix.lower())
        with _output_errors(plot):
            write_bytes(plot, figure)
        print(f"written: {plot}")


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    """Name the file that the user gave, and no temporary one, where it cannot be written."""
    try:
        yield
    except OSError as error:
        raise CompileCommandError(f"{path}: cannot be written ({error.strerror})") from None


def _accelerator(config: Path | None, name: str) -> AcceleratorConfig:
    return AcceleratorConfig.from_toml(config) if config else accelerator_preset(name)


def _console() -> Console:
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPED_WIDTH
    return console


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


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on the standard error, if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("compiling", total=total)

        def done(what: str) -> None:
            progress.update(task, advance=1, description=what)

        yield done
