"""``flexcim compile``: a packed model becomes programs and weight images for an accelerator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flexcim.cli.configuration import AcceleratorPreset, Config, chosen_accelerator
from flexcim.cli.console import shown_steps, table_console
from flexcim.packed.plans import NestedPlan

__all__ = ["compile_packed"]


def compile_packed(
    packed: Annotated[Path, typer.Argument(help="Folder of a packed model, as `flexcim prune` writes it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; a compiled model is replaced.")],
    config: Config = None,
    preset_name: AcceleratorPreset = None,
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

    accelerator = chosen_accelerator(config, preset_name)
    model = read_packed(packed).under(plan)
    shapes = layer_shapes(model, accelerator)
    check_compiled(output)
    with shown_steps(len(shapes)) as steps:
        layers = compile_model(accelerator, shapes, vectors, steps.done)
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
    console = table_console()
    console.print(table)
    total = sum(layer.cycles.cycles for layer in layers.values())
    console.print(f"{total:,} cycles for {vectors} vector{'s' if vectors > 1 else ''} of each layer")
    print(f"written: {output / SCHEDULE}")
