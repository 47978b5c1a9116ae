"""Results of verifications as files: JSON for programs, JUnit XML for continuous integration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from flexcim.files import check_writable, write_bytes, write_text
from flexcim_sim.bench.run.runner import Outcome
from flexcim_sim.bench.run.verify import Verification

__all__ = ["check_results", "write_results"]

_JSON, _XML = "results.json", "results.xml"


def check_results(folder: Path) -> None:
    """Raise OSError, before anything is simulated, if `write_results` could not write."""
    check_writable(folder / _JSON, folder / _XML)


def write_results(folder: Path, verifications: Sequence[Verification]) -> tuple[Path, Path]:
    """Write ``results.json`` and ``results.xml`` into a folder, each atomically; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    as_json, as_xml = folder / _JSON, folder / _XML
    document = {
        "passed": not any(verification.failed for verification in verifications),
        "verifications": [_mapping(verification) for verification in verifications],
    }
    write_text(as_json, json.dumps(document, indent=2) + "\n")
    write_bytes(as_xml, ElementTree.tostring(_suites(verifications), encoding="utf-8", xml_declaration=True))
    return as_json, as_xml


def _mapping(verification: Verification) -> dict[str, Any]:
    coverage = verification.coverage
    return {
        "configuration": verification.label,
        "parameters": verification.config.to_mapping(),
        "initial_values": verification.init,
        "simulator": verification.simulator,
        "seed": verification.seed,
        "build_seconds": round(verification.build_seconds, 3),
        "log": str(verification.folder / "simulation.log"),
        "waves": str(verification.waves) if verification.waves else None,
        "tests": [_test(outcome) for outcome in verification.outcomes],
        "coverage": {"legal_crosses": coverage.legal, "hit": coverage.hit},
    }


def _test(outcome: Outcome) -> dict[str, Any]:
    return vars(outcome) | {"covered": len(outcome.covered)}


def _suites(verifications: Sequence[Verification]) -> ElementTree.Element:
    suites = ElementTree.Element("testsuites")
    for verification in verifications:
        name = f"{verification.label}.{verification.simulator}"
        suite = ElementTree.SubElement(
            suites,
            "testsuite",
            name=name,
            tests=str(len(verification.outcomes)),
            failures=str(len(verification.failed)),
            time=f"{sum(outcome.seconds for outcome in verification.outcomes):.3f}",
        )
        for outcome in verification.outcomes:
            case = ElementTree.SubElement(
                suite, "testcase", classname=name, name=outcome.name, time=f"{outcome.seconds:.3f}"
            )
            if not outcome.passed:
                ElementTree.SubElement(case, "failure", message=outcome.message)
    return suites
