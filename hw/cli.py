"""``flexcim generate``: from a configuration to Verilog."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flexcim.config import PRESETS, MacroConfig, preset
from flexcim.errors import FlexCiMError
from flexcim.files import named_folder

__all__ = ["GenerateError", "generate"]


class GenerateError(FlexCiMError):
    """A call of ``flexcim generate`` that cannot be carried out."""


def generate(
    config: Annotated[
        Path | None,
        typer.Option(help='TOML file: an optional preset = "NAME", and a table "macro" of what differs from it.'),
    ] = None,
    preset_name: Annotated[
        str | None,
        typer.Option("--preset", help=f"Without --config: one of {', '.join(PRESETS)}. [default: flexcim]"),
    ] = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", parser=named_folder, metavar="FOLDER", help="Folder for NAME.v and NAME.json."),
    ] = Path("build/rtl"),
    name: Annotated[str, typer.Option(help="Name of the top module, and prefix of all others.")] = "flexcim_macro",
    init: Annotated[
        bool, typer.Option(help="Write initial values of registers: FPGAs want them, ASIC flows do not.")
    ] = True,
) -> None:
    """Generate the synthesizable Verilog of a macro, and a JSON that describes its ports and modes.

    The file is clean in `verilator --lint-only -Wall` (waivers stand in its header, each with its reason), and Yosys
    reads it.

    Examples: `flexcim generate`, `flexcim generate --config my.toml -o rtl --no-init`
    """
    from hw.verilog import generate as generate_verilog
    from hw.verilog import is_module_name, write_verilog

    if config is not None and preset_name is not None:
        raise GenerateError("--config and --preset exclude each other: a configuration file can name its preset itself")
    if not is_module_name(name):
        raise GenerateError(f"--name must be a Verilog identifier, not {name!r}")
    chosen = preset(preset_name or "flexcim") if config is None else MacroConfig.from_toml(config)
    try:
        source, description = write_verilog(generate_verilog(chosen, name, init=init), output)
    except OSError as error:
        raise GenerateError(f"{error.filename or output}: cannot be written ({error.strerror})") from None
    console = Console(soft_wrap=True)
    size = source.stat().st_size / 1000
    cells = f"{chosen.sub_macros} x {chosen.rows} x {chosen.columns} cells"
    console.print(f"{source}  {size:.0f} kB, {cells}, {len(chosen.modes)} modes of pattern and groups")
    console.print(f"{description}")
