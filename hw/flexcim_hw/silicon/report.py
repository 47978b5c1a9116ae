"""What was measured, as JSON, and instances against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flexcim_hw.silicon.area import MemoryArea
from flexcim_hw.silicon.instance import Instance, Method
from flexcim_hw.silicon.memories import Placement
from flexcim_hw.silicon.timing import Timing

__all__ = ["FORMAT", "NO_WIRES", "SCHEMA_VERSION", "Ratios", "ratios", "to_mapping"]

FORMAT = "flexcim-silicon"
SCHEMA_VERSION = 1

NO_WIRES = "no wires: nothing is placed or routed, so they take no area and no time"
"""What every output says."""


@dataclass(frozen=True)
class Ratios:
    """An instance against another one; what the other one takes is 1.

    Parameters
    ----------
    logic : float
        Area, memories apart.
    with_storage : float
        Area of logic and weight storage, the storage as flip-flops.
    total : float
        Area with all memories as flip-flops.
    period : float or None
        Clock period; None where it was not measured of both.
    """

    logic: float
    with_storage: float
    total: float
    period: float | None


def ratios(one: Instance, base: Instance) -> Ratios:
    """An instance against another one."""
    period = one.timing.period / base.timing.period if one.timing and base.timing else None
    return Ratios(
        one.area.logic / base.area.logic,
        one.area.with_storage / base.area.with_storage,
        one.area.total / base.area.total,
        period,
    )


def to_mapping(instances: Sequence[Instance], method: Method, clock_missing: str | None) -> dict[str, Any]:
    """All that was measured, for JSON: areas in um^2, times in ns.

    Parameters
    ----------
    instances : sequence of Instance
        The instances; ratios are against the first.
    method : Method
        How they were measured.
    clock_missing : str or None
        Why no clock was measured.
    """
    library = method.library
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "units": {"area": "um^2", "time": "ns"},
        "wires": NO_WIRES,
        "library": {"name": library.name, "corner": library.corner, "sha256": library.sha256, "gate": library.gate},
        "period": method.period,
        "clock_missing": clock_missing,
        "instances": [_instance(one, instances[0], library.gate) for one in instances],
    }


def _instance(one: Instance, base: Instance, gate: float) -> dict[str, Any]:
    area = one.area
    return {
        "name": one.name,
        "rtl_sha256": one.rtl_sha256,
        "area": {"total": area.total, "logic": area.logic, "memories": area.memory, "with_storage": area.with_storage},
        "gates": area.gates,
        "clock_ns": one.timing.period if one.timing else None,
        "slack_ns": one.timing.slack if one.timing else None,
        "blocks": [
            {"name": block.block, "logic": block.logic, "memories": block.memories, "gates": block.total / gate}
            for block in area.blocks
        ],
        "memories": [_memory(memory) for memory in area.memories],
        "critical_path": _path(one.timing),
        "against_first": asdict(ratios(one, base)),
    }


def _memory(memory: MemoryArea) -> dict[str, Any]:
    macros: Mapping[str, Any]
    if isinstance(memory.macros, Placement):
        each = memory.macros
        macros = {"cell": each.macro.name, "of_each": each.count, "area": memory.count * each.area}
    else:
        macros = {"cell": None, "why": memory.macros}
    return {
        "block": memory.block,
        "count": memory.count,
        **asdict(memory.shape),
        "flip_flops": memory.flip_flops,
        "latches": memory.latches,
        "macros": macros,
        "extrapolated": memory.is_large,
    }


def _path(timing: Timing | None) -> list[dict[str, Any]] | None:
    return None if timing is None else [asdict(stage) for stage in timing.path]
