"""The options --config and --preset: how the subcommands declare them, and the configurations that they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from flexcim.config.accelerator import ACCELERATOR_PRESETS, AcceleratorConfig, accelerator_preset, names_accelerator
from flexcim.config.macro import PRESETS, MacroConfig, preset
from flexcim.errors import FlexCiMError

__all__ = [
    "AcceleratorPreset",
    "Config",
    "Configs",
    "ConfigurationError",
    "Preset",
    "Presets",
    "chosen_accelerator",
    "chosen_configuration",
    "chosen_configurations",
    "chosen_macro",
]

_MACRO = "flexcim"
"""The macro where no option names one."""

_ACCELERATOR = "accelerator"
"""The accelerator where no option names one."""

_FILE = (
    'TOML file: an optional preset = "NAME", and what differs from it in tables "macro" and, for an accelerator, '
    '"accelerator".'
)


def _preset_option(names: Iterable[str], default: str) -> Any:
    return typer.Option("--preset", help=f"Without --config: one of {', '.join(names)}. \\[default: {default}]")


# Of one configuration, be it a macro or an accelerator; and where a macro stands for an accelerator with one of it.
Config: TypeAlias = Annotated[Path | None, typer.Option("--config", help=_FILE)]
Preset: TypeAlias = Annotated[str | None, _preset_option([*PRESETS, *ACCELERATOR_PRESETS], _MACRO)]
AcceleratorPreset: TypeAlias = Annotated[str | None, _preset_option([*ACCELERATOR_PRESETS, *PRESETS], _ACCELERATOR)]

# Of any number of configurations.
Configs: TypeAlias = Annotated[list[Path] | None, typer.Option("--config", help=f"{_FILE} May be given several times.")]
Presets: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--preset",
        help=f"One of {', '.join((*PRESETS, *ACCELERATOR_PRESETS))}. May be given several times. "
        f"\\[default: {_MACRO}, without --config]",
    ),
]


class ConfigurationError(FlexCiMError):
    """Options that name no single configuration."""


def chosen_macro(config: Path | None, preset_name: str | None) -> MacroConfig:
    """The macro of a configuration file or of a preset's name, be it alone or an accelerator's; else the default one.

    Raises
    ------
    ConfigurationError
        If both are given.
    ConfigError
        If the file cannot be read or breaks a rule, or nothing has the name.
    """
    chosen = chosen_configuration(config, preset_name)
    return chosen.macro if isinstance(chosen, AcceleratorConfig) else chosen


def chosen_accelerator(config: Path | None, preset_name: str | None, default: str = _ACCELERATOR) -> AcceleratorConfig:
    """The accelerator of a configuration file or of a preset's name; that of the default's name if neither is given.

    What names a macro stands for an accelerator with one of it.

    Raises
    ------
    ConfigurationError
        If both are given.
    ConfigError
        If the file cannot be read or breaks a rule, or nothing has the name.
    """
    _check_exclusive(config, preset_name)
    return AcceleratorConfig.from_toml(config) if config else accelerator_preset(preset_name or default)


def chosen_configuration(
    config: Path | None, preset_name: str | None, *, accelerator: bool = False
) -> MacroConfig | AcceleratorConfig:
    """The configuration of a file or of a preset's name; the default macro if neither is given.

    Parameters
    ----------
    config : Path or None
        The file.
    preset_name : str or None
        The name.
    accelerator : bool
        Whether what names a macro stands for an accelerator with one of it.

    Raises
    ------
    ConfigurationError
        If both are given.
    ConfigError
        If the file cannot be read or breaks a rule, or nothing has the name.
    """
    _check_exclusive(config, preset_name)
    if accelerator:
        return chosen_accelerator(config, preset_name, default=_MACRO)
    return _read(config) if config else _named(preset_name or _MACRO)


def chosen_configurations(
    files: Sequence[Path] | None, presets: Sequence[str] | None
) -> dict[str, MacroConfig | AcceleratorConfig]:
    """The configurations of presets' names and of files, by labels that differ; the default macro if none is given.

    Raises
    ------
    ConfigError
        If a file cannot be read or breaks a rule, or nothing has a name.
    """
    named = [(name, _named(name)) for name in presets or ()] + [(path.stem, _read(path)) for path in files or ()]
    chosen: dict[str, MacroConfig | AcceleratorConfig] = {}
    for name, config in named or [(_MACRO, _named(_MACRO))]:
        label, count = name, 1
        while label in chosen:
            count += 1
            label = f"{name}-{count}"
        chosen[label] = config
    return chosen


def _check_exclusive(config: Path | None, preset_name: str | None) -> None:
    if config is not None and preset_name is not None:
        raise ConfigurationError(
            "--config and --preset exclude each other: a configuration file can name its preset itself"
        )


def _read(path: Path) -> MacroConfig | AcceleratorConfig:
    return AcceleratorConfig.from_toml(path) if names_accelerator(path) else MacroConfig.from_toml(path)


def _named(name: str) -> MacroConfig | AcceleratorConfig:
    return ACCELERATOR_PRESETS[name] if name in ACCELERATOR_PRESETS else preset(name)
