"""Coverage of several runs of the bench, kept in one JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexcim.files import write_text
from flexcim_sim.bench.coverage.counts import Coverage, CoverageError
from flexcim_sim.bench.run.verify import Verification

__all__ = ["CoverageRecord", "merge_records", "read_records", "write_records"]

_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class CoverageRecord:
    """What was covered of one design in one simulator.

    Parameters
    ----------
    label : str
        The configuration's name.
    parameters : mapping of str to plain values
        The configuration.
    simulator : str
        The simulator.
    design : str
        SHA-256 of the Verilog. What was seen of other Verilog says nothing about this.
    seeds : tuple of int
        The seeds of the runs that are in it.
    coverage : Coverage
        The crosses, and how often each was seen.
    """

    label: str
    parameters: dict[str, Any]
    simulator: str
    design: str
    seeds: tuple[int, ...]
    coverage: Coverage

    @classmethod
    def of(cls, verification: Verification) -> CoverageRecord:
        """That of one verification."""
        return cls(
            label=verification.label,
            parameters=verification.config.to_mapping(),
            simulator=verification.simulator,
            design=verification.design,
            seeds=(verification.seed,),
            coverage=verification.coverage,
        )

    def fits(self, other: CoverageRecord) -> bool:
        """Whether the two are of the same design in the same simulator."""
        return (self.design, self.simulator) == (other.design, other.simulator)


def merge_records(records: Iterable[CoverageRecord]) -> list[CoverageRecord]:
    """Records of the same design and simulator added up, in the order in which they come first.

    Raises
    ------
    CoverageError
        If the legal crosses of two that belong together differ, as of a file that was changed by hand.
    """
    merged: list[CoverageRecord] = []
    for record in records:
        place = next((index for index, one in enumerate(merged) if one.fits(record)), None)
        if place is None:
            merged.append(record)
        else:
            merged[place] = _sum(merged[place], record)
    return merged


def _sum(one: CoverageRecord, other: CoverageRecord) -> CoverageRecord:
    coverage = Coverage(one.coverage.axes, one.coverage.runs)
    try:
        coverage.merge(other.coverage)
    except CoverageError as error:
        raise CoverageError(f"{other.label}, {other.simulator}: {error}") from None
    return CoverageRecord(
        label=other.label,
        parameters=other.parameters,
        simulator=other.simulator,
        design=other.design,
        seeds=(*one.seeds, *(seed for seed in other.seeds if seed not in one.seeds)),
        coverage=coverage,
    )


def read_records(path: Path) -> list[CoverageRecord]:
    """The records of a file; none if it is not there.

    Raises
    ------
    CoverageError
        If it cannot be read, or is no file of coverage; the message names it.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CoverageError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # no JSON, or no UTF-8
        raise CoverageError(f"{path}: is no JSON ({error})") from None
    if not isinstance(document, dict) or document.get("schema_version") != _SCHEMA_VERSION:
        raise CoverageError(f"{path}: is no file of coverage with schema_version {_SCHEMA_VERSION}")
    try:
        return [_record(values) for values in document["records"]]
    except (KeyError, TypeError, ValueError) as error:
        reason = error if isinstance(error, CoverageError) else "a record lacks what belongs into it"
        raise CoverageError(f"{path}: {reason}") from None


def _record(values: dict[str, Any]) -> CoverageRecord:
    return CoverageRecord(
        label=str(values["configuration"]),
        parameters=dict(values["parameters"]),
        simulator=str(values["simulator"]),
        design=str(values["design_sha256"]),
        seeds=tuple(map(int, values["seeds"])),
        coverage=Coverage.from_mapping(values["coverage"]),
    )


def write_records(path: Path, records: Sequence[CoverageRecord]) -> None:
    """Write records, atomically."""
    document = {
        "schema_version": _SCHEMA_VERSION,
        "records": [
            {
                "configuration": record.label,
                "parameters": record.parameters,
                "simulator": record.simulator,
                "design_sha256": record.design,
                "seeds": record.seeds,
                "legal_crosses": record.coverage.legal,
                "hit": record.coverage.hit,
                "coverage": record.coverage.to_mapping(),
            }
            for record in records
        ],
    }
    write_text(path, json.dumps(document) + "\n")
