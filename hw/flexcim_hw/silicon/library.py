"""A cell library: one or more Liberty files, and what is asked of them."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from flexcim.files import write_bytes
from flexcim_hw.silicon.fanout import Buffer
from flexcim_hw.silicon.liberty import Group, LibertyError, evaluate, read_liberty

__all__ = ["DEFAULT_LIBERTY", "CellLibrary", "read_library"]

DEFAULT_LIBERTY = Path("/usr/share/qflow/tech/osu018/osu018_stdcells.lib")
"""The library where none is named: 0.18 um cells of Oklahoma State University, in Debian's qflow-tech-osu018."""


@dataclass(frozen=True)
class CellLibrary:
    """Standard cells.

    Parameters
    ----------
    name : str
        The name that the first file gives its library.
    corner : str
        Process, voltage and temperature in words.
    files : tuple of Path
        The Liberty files.
    sha256 : str
        Of the files' contents, one after the other.
    areas : mapping of str to float
        Area of each cell, um^2; 0 where the library does not say.
    inputs : mapping of str to tuple of str
        The input pins of each cell.
    gate : float
        Area of the smallest two-input NAND, um^2: the unit of gate equivalents.
    buffer : Buffer
        The smallest buffer.
    buffer_load : float
        Capacitance of its input, fF.
    """

    name: str
    corner: str
    files: tuple[Path, ...]
    sha256: str
    areas: Mapping[str, float]
    inputs: Mapping[str, tuple[str, ...]]
    gate: float
    buffer: Buffer
    buffer_load: float

    def unpacked(self, folder: Path) -> tuple[Path, ...]:
        """The files as plain text, which Yosys and OpenSTA read; what is compressed is written to the folder."""
        plain = []
        for path in self.files:
            content = path.read_bytes()
            if content[:2] == b"\x1f\x8b":
                path = folder / f"{self.sha256[:16]}-{path.name.removesuffix('.gz')}"
                if not path.exists():
                    write_bytes(path, gzip.decompress(content))
            plain.append(path)
        return tuple(plain)


def read_library(files: Sequence[str | os.PathLike[str]] = ()) -> CellLibrary:
    """Read a library, and see that synthesis can do with it.

    Parameters
    ----------
    files : sequence of path
        Its Liberty files, plain or gzip; by default `DEFAULT_LIBERTY`.

    Raises
    ------
    LibertyError
        If a file cannot be read or is no Liberty, or what synthesis needs is missing: flip-flops, latches,
        functions, a NAND of two inputs or a buffer.
    """
    paths = tuple(map(Path, files)) or (DEFAULT_LIBERTY,)
    if not files and not DEFAULT_LIBERTY.exists():
        raise LibertyError(
            f"no cell library: {DEFAULT_LIBERTY} is missing; install Debian's qflow-tech-osu018, or name one with "
            "--liberty FILE"
        )
    groups = [read_liberty(path) for path in paths]
    cells = [cell for group in groups for cell in group.all("cell")]
    named = ", ".join(map(str, paths))
    if not cells:
        raise LibertyError(f"{named}: holds no cell")
    for kind, what in (("ff", "flip-flop"), ("latch", "latch")):
        if not any(cell.all(kind) for cell in cells):
            raise LibertyError(f"{named}: holds no {what} (a cell with a group {kind!r}), which synthesis needs")
    if not any("function" in pin.attributes for cell in cells if _is_gate(cell) for pin in _pins(cell, "output")):
        raise LibertyError(f"{named}: says of no gate's output what its function is, which synthesis needs")
    nands = [cell.number("area") for cell in cells if cell.number("area") > 0 and _is_nand(cell)]
    if not nands:
        raise LibertyError(f"{named}: holds no NAND of two inputs with an area, the unit of gate equivalents")
    buffers = [found for cell in cells if cell.number("area") > 0 and (found := _buffer(cell))]
    if not buffers:
        raise LibertyError(f"{named}: holds no buffer with an area, of which trees for large nets are made")
    _, buffer, load = min(buffers, key=lambda found: found[0])
    load *= _farads(groups[0]) * 1e15
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
    areas = {cell.names[0]: cell.number("area") for cell in cells if cell.names}
    inputs = {cell.names[0]: tuple(pin.names[0] for pin in _pins(cell, "input")) for cell in cells if cell.names}
    return CellLibrary(
        " + ".join(group.names[0] for group in groups),
        _corner(groups[0]),
        paths,
        digest,
        areas,
        inputs,
        min(nands),
        buffer,
        load,
    )


def _pins(cell: Group, direction: str) -> list[Group]:
    return [pin for pin in cell.all("pin") if pin.attributes.get("direction") == direction]


def _is_gate(cell: Group) -> bool:
    """Whether a cell stores nothing."""
    return not cell.all("ff", "latch", "statetable")


def _is_nand(cell: Group) -> bool:
    inputs, outputs = [pin.names[0] for pin in _pins(cell, "input")], _pins(cell, "output")
    if not _is_gate(cell) or len(inputs) != 2 or len(outputs) != 1 or "function" not in outputs[0].attributes:
        return False
    table = [
        evaluate(outputs[0].attributes["function"], dict(zip(inputs, bits, strict=True)))
        for bits in product((False, True), repeat=2)
    ]
    return table == [True, True, True, False]


def _buffer(cell: Group) -> tuple[float, Buffer, float] | None:
    """Area, pins and load of a cell that is a plain buffer."""
    inputs, outputs = _pins(cell, "input"), _pins(cell, "output")
    if len(inputs) != 1 or len(outputs) != 1 or not _is_gate(cell):
        return None
    source, sink = inputs[0].names[0], outputs[0].names[0]
    function = outputs[0].attributes.get("function")
    if (
        function is None
        or "three_state" in outputs[0].attributes
        or cell.attributes.get("dont_use", "false").lower() == "true"
    ):
        return None
    if [evaluate(function, {source: value}) for value in (False, True)] != [False, True]:
        return None
    return cell.number("area"), Buffer(cell.names[0], source, sink), inputs[0].number("capacitance")


def _farads(library: Group) -> float:
    """The unit of capacitance."""
    value, unit = (*library.attributes.get("capacitive_load_unit", "1 pf").split(), "pf")[:2]
    return float(value) * {"ff": 1e-15, "pf": 1e-12}[unit.lower()]


def _corner(library: Group) -> str:
    name = library.attributes.get("default_operating_conditions", "")
    conditions = next((group for group in library.all("operating_conditions") if name in group.names), None)
    source = conditions or library
    voltage = source.number("voltage", library.number("nom_voltage"))
    temperature = source.number("temperature", library.number("nom_temperature"))
    return f"{name or 'nominal'}, {voltage:g} V, {temperature:g} °C"
