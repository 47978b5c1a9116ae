"""TOML files of configurations: read and written with errors that name the file."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import tomli_w

from flexcim.config.errors import ConfigError
from flexcim.files import write_text, writing

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["naming", "read_toml", "write_toml"]


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The document of a TOML file.

    Raises
    ------
    ConfigError
        If the file cannot be read or is no TOML; the message names it.
    """
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except RecursionError:
        raise ConfigError(f"{path}: is no TOML that can be read, its brackets are nested too deeply") from None
    except ValueError as error:  # no TOML, no UTF-8, or an integer of thousands of digits
        raise ConfigError(f"{path}: is no TOML ({error})") from None


def write_toml(path: str | os.PathLike[str], document: Mapping[str, Any]) -> None:
    """Write a document as a TOML file, atomically.

    Raises
    ------
    ConfigError
        If the file cannot be written; the message names it.
    """
    with writing(path, ConfigError):
        write_text(path, tomli_w.dumps(document))


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put a file's name before the message of whatever is wrong with what it says.

    Raises
    ------
    ConfigError
        For each ``ValueError`` inside.
    """
    try:
        yield
    except ValueError as error:  # a rule, or an integer too long to be named in its sentence
        raise ConfigError(f"{path}: {error}") from None
