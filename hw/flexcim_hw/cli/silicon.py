"""``flexcim silicon``: what generated Verilog takes in a cell library, in area and in time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from flexcim.checkout import build_folder
from flexcim.cli.configuration import Configs, Presets, chosen_configurations
from flexcim.cli.console import shown_steps, table_console
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import MacroConfig
from flexcim.errors import FlexCiMError
from flexcim.files import check_writable, named_folder, write_bytes, write_text, writing

__all__ = ["silicon"]

_REPORT, _FIGURE = "silicon.json", "area.svg"


class SiliconError(FlexCiMError):
    """A call of ``flexcim silicon`` that cannot be carried out."""


def silicon(
    configs: Configs = None,
    preset_names: Presets = None,
    compare: Annotated[
        str | None, typer.Option(metavar="NAMES", help="More presets, with commas between them.")
    ] = None,
    liberty: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Liberty file of the cells, plain or gzip. May be given several times. "
            "\\[default: Debian's qflow-tech-osu018]",
        ),
    ] = None,
    memories: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Liberty file of memory macros. May be given several times."),
    ] = None,
    period: Annotated[
        float, typer.Option(metavar="NS", help="Clock period that logic is sized for, and the slack is against.")
    ] = 5.0,
    clock: Annotated[
        bool | None,
        typer.Option(
            "--clock/--no-clock",
            help="Measure the clock, too, which needs OpenSTA's program sta. \\[default: if that is there]",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", parser=named_folder, metavar="FOLDER", help="Folder for what is written.")
    ] = Path("build/silicon"),
) -> None:
    """Measure the area and the clock of macros and accelerators in a library of standard cells.

    Yosys maps the Verilog to cells, module by module; OpenSTA times the whole netlist. Area is told by block of the
    architecture page, memories apart: as flip-flops, as latches and, with --memories, as macros. Nothing is placed, so
    there are no wires in any figure. Of several instances, ratios are against the first. FOLDER gets silicon.json and
    area.svg. Mapped modules are kept from call to call, in build/silicon-cache of a checkout.

    Examples: `flexcim silicon --preset board`, `flexcim silicon --compare dense,fixed-2-4,flexcim -o build/area`
    """
    from flexcim_hw.silicon.instance import Method, measure_instance
    from flexcim_hw.silicon.library import read_library
    from flexcim_hw.silicon.memories import read_memories
    from flexcim_hw.silicon.plots import area_figure
    from flexcim_hw.silicon.report import to_mapping
    from flexcim_hw.silicon.tables import show_instances
    from flexcim_hw.silicon.timing import missing_sta

    if not 0.001 <= period <= 1e6:
        raise SiliconError(f"--period must be from 0.001 to 1000000 ns, not {period:g}")
    chosen = _chosen(configs, preset_names, compare)
    library, macros = read_library(liberty or ()), read_memories(memories or ())
    lacking = missing_sta() if clock is not False else "not asked for (--no-clock)"
    if clock and lacking:
        raise SiliconError(lacking)
    report, figure = output / _REPORT, output / _FIGURE
    with writing(output, SiliconError):
        check_writable(report, figure)
    method = Method(library, macros, period, lacking is None, build_folder("silicon-cache"))
    instances = []
    with shown_steps(len(chosen) * (2 if method.clock else 1)) as steps:
        for name, config in chosen.items():
            instances.append(measure_instance(name, config, method, steps.done))
    show_instances(table_console(), instances, method, lacking)
    with writing(output, SiliconError):
        write_text(report, json.dumps(to_mapping(instances, method, lacking), indent=1, allow_nan=False) + "\n")
        write_bytes(figure, area_figure(instances, library))
    print(f"written: {report}\nwritten: {figure}")


def _chosen(
    configs: Sequence[Path] | None, preset_names: Sequence[str] | None, compare: str | None
) -> dict[str, MacroConfig | AcceleratorConfig]:
    """The instances by name, those that are compared behind the others; no preset twice."""
    compared = [name.strip() for name in compare.split(",")] if compare is not None else []
    if not configs:
        return chosen_configurations(None, list(dict.fromkeys([*(preset_names or ()), *compared])))
    named = list(dict.fromkeys(preset_names or ()))
    chosen = chosen_configurations(configs, named)
    others = [name for name in dict.fromkeys(compared) if name not in named]
    for name, config in chosen_configurations(None, others).items() if others else ():
        if name in chosen:
            raise SiliconError(f"--compare {name}: a configuration file is called so, too; rename it")
        chosen[name] = config
    return chosen
