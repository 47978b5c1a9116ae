"""``flexcim generate``: from a configuration to Verilog."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flexcim.config.accelerator import ACCELERATOR_PRESETS, AcceleratorConfig, accelerator_preset, names_accelerator
from flexcim.config.macro import PRESETS, MacroConfig, preset
from flexcim.errors import FlexCiMError
from flexcim.files import named_folder

__all__ = ["GenerateError", "generate"]


class GenerateError(FlexCiMError):
    """A call of ``flexcim generate`` that cannot be carried out."""


def generate(
    config: Annotated[
        Path | None,
        typer.Option(
            help='TOML file: an optional preset = "NAME", and tables "macro" and, for an accelerator, "accelerator" '
            "of what differs from it."
        ),
    ] = None,
    preset_name: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help=f"Without --config: one of {', '.join((*PRESETS, *ACCELERATOR_PRESETS))}. [default: flexcim]",
        ),
    ] = None,
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

    if config is not None and preset_name is not None:
        raise GenerateError("--config and --preset exclude each other: a configuration file can name its preset itself")
    preset_name = preset_name or "flexcim"
    wanted = accelerator or (names_accelerator(config) if config else preset_name in ACCELERATOR_PRESETS)
    name = name if name is not None else "flexcim_accelerator" if wanted else "flexcim_macro"
    if not is_module_name(name):
        raise GenerateError(f"--name must be a Verilog identifier, not {name!r}")
    try:
        if wanted:
            whole = AcceleratorConfig.from_toml(config) if config else accelerator_preset(preset_name)
            paths = write_accelerator(generate_accelerator(whole, name, init=init), whole, output)
            what = f"{whole.macros} macro{'s' if whole.macros > 1 else ''} of "
            macro = whole.macro
        else:
            macro = MacroConfig.from_toml(config) if config else preset(preset_name)
            paths = write_verilog(generate_verilog(macro, name, init=init), output)
            what = ""
    except OSError as error:
        raise GenerateError(f"{error.filename or output}: cannot be written ({error.strerror})") from None
    console = Console(soft_wrap=True)
    size = paths[0].stat().st_size / 1000
    cells = f"{macro.sub_macros} x {macro.rows} x {macro.columns} cells"
    console.print(f"{paths[0]}  {size:.0f} kB, {what}{cells}, {len(macro.modes)} modes of pattern and groups")
    for path in paths[1:]:
        console.print(f"{path}")
