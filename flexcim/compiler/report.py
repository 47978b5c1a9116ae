"""What a model's layers cost on an accelerator, and on others: cycles, utilisation, and what bounds each layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from flexcim.compiler.mapping import CompileError
from flexcim.compiler.model import LayerShape, compile_model, patterns_on
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import PRESETS, ceil_div
from flexcim.config.pattern import union
from flexcim.macro.cycles import CycleError, paper_cells_per_block, paper_layer_cycles

__all__ = ["ComparedMacro", "CyclesReport", "LayerCost", "PhaseCost", "measure_model", "phase_vectors"]

PAPER = "paper storage"
"""Name of the paper's own storage among the comparisons: an analytical figure, in which latency costs nothing."""


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """A layer's cost.

    Parameters
    ----------
    name, outputs, inputs, pattern, groups :
        The layer, and the G that the compiler chose.
    resident : bool
        Whether its weights stay on the chip.
    cycles : int
        Of a pass, by the exact cycle model.
    utilisation : float
        `CompiledLayer.utilisation`.
    bound : str
        Which is busiest: ``compute``, ``weights``, ``activations`` or ``results``.
    busy : dict of str to int
        Cycles that each of them is busy at least.
    weight_bytes, dense_bytes : int
        Bytes of the weight stream, and of the int8 matrix, which a dense engine would stream.
    """

    name: str
    outputs: int
    inputs: int
    pattern: str
    groups: int
    resident: bool
    cycles: int
    utilisation: float
    bound: str
    busy: dict[str, int]
    weight_bytes: int
    dense_bytes: int


@dataclass(frozen=True)
class ComparedMacro:
    """Another macro in the same accelerator, with the same buses and as many macros.

    Parameters
    ----------
    name : str
        The preset, or `PAPER`.
    cells : int
        Cells of the accelerator.
    cycles : int or None
        Of all layers; None if it cannot run them.
    """

    name: str
    cells: int
    cycles: int | None


@dataclass(frozen=True)
class PhaseCost:
    """All layers with one number of vectors.

    Parameters
    ----------
    name : str
        ``prefill`` or ``decode``.
    vectors : int
        Vectors of each layer.
    layers : list of LayerCost
        In the model's order.
    comparisons : list of ComparedMacro
        The same layers elsewhere.
    """

    name: str
    vectors: int
    layers: list[LayerCost]
    comparisons: list[ComparedMacro]

    @property
    def cycles(self) -> int:
        """Of all layers."""
        return sum(layer.cycles for layer in self.layers)

    @property
    def utilisation(self) -> float:
        """Of all layers, by their cycles."""
        return sum(layer.utilisation * layer.cycles for layer in self.layers) / self.cycles


@dataclass(frozen=True)
class CyclesReport:
    """The cost of a model.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    phases : list of PhaseCost
        Prefill, then decode.
    """

    config: AcceleratorConfig
    phases: list[PhaseCost]

    def to_mapping(self) -> dict[str, Any]:
        """All of it as what JSON can hold."""
        return {
            "config": self.config.to_mapping(),
            "phases": [
                asdict(phase) | {"cycles": phase.cycles, "utilisation": phase.utilisation} for phase in self.phases
            ],
        }


def phase_vectors(prefill: int) -> dict[str, int]:
    """Vectors of each phase: so many for prefill, 1 for decode."""
    return {"prefill": prefill, "decode": 1}


def measure_model(
    config: AcceleratorConfig,
    shapes: Sequence[LayerShape],
    originals: Sequence[LayerShape],
    prefill: int,
    done: Callable[[str], None] = lambda name: None,
    *,
    decode: tuple[Sequence[LayerShape], Sequence[LayerShape]] | None = None,
) -> CyclesReport:
    """Compile a model for an accelerator and for those that it is compared with.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    shapes : sequence of LayerShape
        The layers, with patterns that it has.
    originals : sequence of LayerShape
        The same with the model's own patterns, for the others.
    prefill : int
        Vectors of the prefill.
    done : callable, optional
        Called with a sentence for each model that has been compiled: once for each phase and each macro.
    decode : tuple of two sequences of LayerShape, optional
        The two for decode, where that runs under another plan than prefill.

    Raises
    ------
    CompileError
        If a layer cannot be compiled.
    """
    phases = []
    for name, vectors in phase_vectors(prefill).items():
        if name == "decode" and decode is not None:
            shapes, originals = decode
        phase = PhaseCost(name, vectors, _costs(config, shapes, vectors), [])
        done(f"{name}, this accelerator")
        for preset, macro in PRESETS.items():
            other = replace(config, macro=macro)
            phase.comparisons.append(ComparedMacro(preset, _cells(other), _elsewhere(other, originals, vectors)))
            done(f"{name}, {preset}")
        phase.comparisons.append(ComparedMacro(PAPER, _cells(config), _on_paper(config, originals, vectors)))
        phases.append(phase)
    return CyclesReport(config, phases)


def _cells(config: AcceleratorConfig) -> int:
    return config.macros * config.macro.sub_macros * config.macro.rows * config.macro.columns


def _costs(config: AcceleratorConfig, shapes: Sequence[LayerShape], vectors: int) -> list[LayerCost]:
    costs = []
    for name, layer in compile_model(config, shapes, vectors).items():
        tiling, bounds = layer.tiling, layer.schedule.bounds(config)
        costs.append(
            LayerCost(
                name=name,
                outputs=tiling.outputs,
                inputs=tiling.inputs,
                pattern=tiling.pattern_names,
                groups=tiling.groups,
                resident=layer.resident,
                cycles=layer.cycles.cycles,
                utilisation=layer.utilisation,
                bound=bounds.by,
                busy=dict(vars(bounds)),
                weight_bytes=layer.cycles.weight_words * config.weight_bus // 8,
                dense_bytes=tiling.outputs * tiling.inputs,
            )
        )
    return costs


def _elsewhere(config: AcceleratorConfig, originals: Sequence[LayerShape], vectors: int) -> int | None:
    """Cycles of all layers on another accelerator."""
    try:
        shapes = [
            LayerShape(shape.name, shape.outputs, shape.inputs, *patterns_on(config, shape.patterns))
            for shape in originals
        ]
        return sum(layer.cycles.cycles for layer in compile_model(config, shapes, vectors).values())
    except CompileError:
        return None


def _on_paper(config: AcceleratorConfig, originals: Sequence[LayerShape], vectors: int) -> int | None:
    """Cycles of all layers on the paper's storage, spread evenly over the macros; each of its cells, of W + 1 bits,
    comes over the same bus and weight port once."""
    macro, total = config.macro, 0
    for one in originals:
        pattern = union(one.patterns)
        try:
            compute = paper_layer_cycles(macro, one.outputs, one.inputs, pattern, vectors)
        except CycleError:  # a block does not fit a column
            return None
        cells = one.outputs * ceil_div(one.inputs, pattern.m) * paper_cells_per_block(pattern)
        words = ceil_div(cells * (macro.weight_bits + 1), config.weight_bus)
        total += max(ceil_div(compute, config.macros), ceil_div(cells, macro.weight_port), words)
    return total
