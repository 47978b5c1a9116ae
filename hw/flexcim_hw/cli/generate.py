"""``flexcim generate``: from a configuration to Verilog."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flexcim.cli.configuration import Config, Preset, chosen_configuration
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.errors import FlexCiMError
from flexcim.files import named_folder, writing

__all__ = ["GenerateError", "generate"]


class GenerateError(FlexCiMError):
    """A call of ``flexcim generate`` that cannot be carried out."""


def generate(
    config: Config = None,
    preset_name: Preset = None,
    accelerator: Annotated[
        bool,
        typer.Option(
            "--accelerator",
            help="Generate an accelerator around the macro; a table or preset of an accelerator says so, too.",
        ),
    ] = False,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", parser=named_folder, metavar="FOLDER", help="Folder for NAME.v and what stands beside it."
        ),
    ] = Path("build/rtl"),
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the top module, and prefix of all others; flexcim_macro or flexcim_accelerator by default."
        ),
    ] = None,
    init: Annotated[
        bool, typer.Option(help="Write initial values of registers: FPGAs want them, ASIC flows do not.")
    ] = True,
) -> None:
    """Generate the synthesizable Verilog of a macro or an accelerator, and a JSON that describes it.

    The file is clean in `verilator --lint-only -Wall` (waivers stand in its header, each with its reason), and Yosys
    reads it. An accelerator comes with a C header, a Python driver and a Markdown table of its registers.

    Examples: `flexcim generate`, `flexcim generate --config my.toml -o rtl --no-init`,
    `flexcim generate --preset accelerator-4`
    """
    from flexcim_hw.verilog.accelerator import generate_accelerator, write_accelerator
    from flexcim_hw.verilog.macro import generate as generate_verilog
    from flexcim_hw.verilog.macro import is_module_name, write_verilog

    chosen = chosen_configuration(config, preset_name, accelerator=accelerator)
    is_accelerator = isinstance(chosen, AcceleratorConfig)
    name = name if name is not None else "flexcim_accelerator" if is_accelerator else "flexcim_macro"
    if not is_module_name(name):
        raise GenerateError(f"--name must be a Verilog identifier, not {name!r}")
    paths: Sequence[Path]
    with writing(output, GenerateError):
        if isinstance(chosen, AcceleratorConfig):
            paths = write_accelerator(generate_accelerator(chosen, name, init=init), chosen, output)
            what, macro = f"{chosen.macros} macro{'s' if chosen.macros > 1 else ''} of ", chosen.macro
        else:
            paths = write_verilog(generate_verilog(chosen, name, init=init), output)
            what, macro = "", chosen
    console = Console(soft_wrap=True)
    size = paths[0].stat().st_size / 1000
    cells = f"{macro.sub_macros} x {macro.rows} x {macro.columns} cells"
    console.print(f"{paths[0]}  {size:.0f} kB, {what}{cells}, {len(macro.modes)} modes of pattern and groups")
    for path in paths[1:]:
        console.print(f"{path}")
