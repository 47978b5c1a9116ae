"""What the demonstration found: the numbers, what is wrong with them if anything, and the report's JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flexcim_sim.bench.ends.trace import StreamTrace

__all__ = [
    "LayerReport",
    "ModelReport",
    "PhaseReport",
    "PruningReport",
    "Report",
    "RtlReport",
    "RunReport",
    "VectorReport",
    "short_name",
]


def short_name(layer: str) -> str:
    """The block's number and the layer's own name of a path: ``0.down_proj`` of ``model.layers.0.mlp.down_proj``."""
    parts = layer.split(".")
    numbers = [part for part in parts[:-1] if part.isdecimal()]
    return ".".join([*numbers[:1], parts[-1]])


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One layer of a pruned model.

    Parameters
    ----------
    name : str
        Its path in the model.
    outputs, inputs : int
        Shape of its weights.
    n, m : int
        Its pattern.
    why : str
        Why this pattern.
    groups, tiles : int
        How it lies on the macro.
    sparsity : float
        Share of its weights that are zero, counted.
    cycles_model, cycles_dense_model : int
        Cycles on the macro and on the dense instance, by the cycle model.
    """

    name: str
    outputs: int
    inputs: int
    n: int
    m: int
    why: str
    groups: int
    tiles: int
    sparsity: float
    cycles_model: int
    cycles_dense_model: int

    @property
    def pattern(self) -> str:
        """The pattern in words."""
        return f"{self.n}:{self.m}"


@dataclass(frozen=True, kw_only=True)
class PruningReport:
    """A model, pruned in one way.

    Parameters
    ----------
    label : str
        The way, in words.
    method, score, update : str
        Who chose the patterns, what masks were chosen by, and what happened to the kept weights.
    sparsity : float
        Share of the layers' weights that is zero.
    bpb_pruned, bpb_int8 : float
        Bits per byte of the held-out text: the pruned model, and the same in the macro's integers.
    cycles_model, cycles_dense_model : int
        Cycles of all layers on the macro and on the dense instance, by the cycle model.
    text : str
        How the model goes on from the prompt, in the macro's integers.
    """

    label: str
    method: str
    score: str
    update: str
    sparsity: float
    bpb_pruned: float
    bpb_int8: float
    cycles_model: int
    cycles_dense_model: int
    text: str

    @property
    def speedup(self) -> float:
        """Cycles of the dense instance by those of the macro."""
        return self.cycles_dense_model / self.cycles_model


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """One model, before and after pruning.

    Parameters
    ----------
    name : str
        Name of its folder.
    sparsity_target : float
        Share of the layers' weights that was to be zero.
    bpb_dense : float
        Bits per byte of the held-out text under the dense model.
    text_dense : str
        How the dense model goes on from the prompt.
    default, published : PruningReport
        Pruned by the pruner's defaults, which is what runs on the hardware, and by the published method.
    layers : tuple of LayerReport
        All layers as the defaults pruned them, in the model's order.
    """

    name: str
    sparsity_target: float
    bpb_dense: float
    text_dense: str
    default: PruningReport
    published: PruningReport
    layers: tuple[LayerReport, ...]

    def to_mapping(self) -> dict[str, Any]:
        """The model's part of the report as JSON's plain values; what the defaults gave stands beside the name."""
        return {
            "name": self.name,
            "sparsity_target": self.sparsity_target,
            "bpb_dense": self.bpb_dense,
            "text_dense": self.text_dense,
            **asdict(self.default),
            "published": asdict(self.published),
            "layers": [asdict(layer) for layer in self.layers],
        }


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """A layer on one simulated macro.

    Parameters
    ----------
    outputs_compared : int
        Results compared, each a number of 32 bits.
    mismatches : int
        How many of them differ from the golden model's.
    cycles_rtl : int
        Cycles of the Verilog.
    cycles_model : int
        Cycles that the cycle model predicts.
    message : str
        What else is wrong; nothing if all is well.
    """

    outputs_compared: int
    mismatches: int
    cycles_rtl: int
    cycles_model: int
    message: str = ""

    @property
    def is_exact(self) -> bool:
        """Whether every output is the golden model's."""
        return self.outputs_compared > 0 and not self.mismatches and not self.message

    @property
    def is_on_time(self) -> bool:
        """Whether it took the cycles that the cycle model predicts."""
        return 0 < self.cycles_rtl == self.cycles_model

    @property
    def failures(self) -> tuple[str, ...]:
        """What is wrong, in sentences without a subject."""
        found = []
        if self.mismatches or not self.outputs_compared:
            found.append(f"{self.mismatches} of {self.outputs_compared} outputs differ from the golden ones")
        if self.cycles_rtl != self.cycles_model:
            found.append(f"{self.cycles_rtl} cycles in the RTL, but {self.cycles_model} by the cycle model")
        if self.message:
            found.append(self.message)
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class RtlReport:
    """A layer in simulation: on a macro, and as a dense layer on the dense instance with the same cells.

    Parameters
    ----------
    model, layer : str
        Which layer.
    simulator : str
        The simulator.
    preset : str
        The macro's preset.
    cells : str
        Its cells, S x R x C.
    pattern : str
        The layer's pattern.
    limit : float
        m/n, which a layer whose tiles are all full reaches.
    vectors : int
        Vectors of activations.
    sparse, dense : RunReport
        What came out of the macro, and of the dense instance.
    """

    model: str
    layer: str
    simulator: str
    preset: str
    cells: str
    pattern: str
    limit: float
    vectors: int
    sparse: RunReport
    dense: RunReport

    @property
    def speedup(self) -> float:
        """Measured: cycles of the dense instance by those of the macro; 0 if there is no result."""
        return self.dense.cycles_rtl / self.sparse.cycles_rtl if self.sparse.cycles_rtl else 0.0

    @property
    def failures(self) -> tuple[str, ...]:
        """What is wrong, in sentences that say where."""
        where = f"{self.model}, {self.layer} in {self.simulator}"
        return tuple(
            f"{where} on {preset} {self.cells}: {failure}"
            for preset, run in ((self.preset, self.sparse), ("dense", self.dense))
            for failure in run.failures
        )

    def to_mapping(self) -> dict[str, Any]:
        """The report's entry as JSON's plain values."""
        return {
            "model": self.model,
            "layer": self.layer,
            "simulator": self.simulator,
            "preset": self.preset,
            "cells": self.cells,
            "pattern": self.pattern,
            "vectors": self.vectors,
            "outputs_compared": self.sparse.outputs_compared,
            "mismatches": self.sparse.mismatches,
            "cycles_rtl": self.sparse.cycles_rtl,
            "cycles_model": self.sparse.cycles_model,
            "outputs_compared_dense": self.dense.outputs_compared,
            "mismatches_dense": self.dense.mismatches,
            "cycles_dense_rtl": self.dense.cycles_rtl,
            "cycles_dense_model": self.dense.cycles_model,
            "speedup": self.speedup,
            "speedup_limit": self.limit,
        }


@dataclass(frozen=True, kw_only=True)
class PhaseReport:
    """A part of a vector's way through a macro.

    Parameters
    ----------
    name : str
        What it is called.
    first, last : int
        Its cycles, both counted; cycle 0 is the one in which the first command is taken.
    what : str
        What happens in it.
    """

    name: str
    first: int
    last: int
    what: str

    @property
    def cycles(self) -> int:
        """How many they are."""
        return self.last - self.first + 1


@dataclass(frozen=True, kw_only=True)
class VectorReport:
    """One vector through one tile, recorded at the pins of a simulated macro.

    Parameters
    ----------
    model, layer : str
        The layer whose first tile and first vector it is.
    simulator, preset, cells, pattern : str
        As in `RtlReport`.
    run : RunReport
        How it compares with the golden model and the cycle model.
    inputs : list of int
        The vector, int8.
    results : list of int
        The sums that left the macro.
    traces : mapping of str to StreamTrace
        What the pins of each stream showed, from cycle 0 on.
    phases : tuple of PhaseReport
        The vector's way, in its order; nothing if the vector did not pass.
    """

    model: str
    layer: str
    simulator: str
    preset: str
    cells: str
    pattern: str
    run: RunReport
    inputs: Sequence[int]
    results: Sequence[int]
    traces: Mapping[str, StreamTrace]
    phases: tuple[PhaseReport, ...]

    @property
    def failures(self) -> tuple[str, ...]:
        """What is wrong, in sentences that say where."""
        where = f"{self.model}, a vector of {self.layer} in {self.simulator} on {self.preset} {self.cells}"
        return tuple(f"{where}: {failure}" for failure in self.run.failures)


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that the demonstration found.

    Parameters
    ----------
    seed : int
        Seed of the calibration samples.
    cells : str
        The macro that the cycles of all layers are for, S x R x C.
    vectors : int
        Vectors that they are for.
    prompt : str
        What the models go on from.
    evaluated : int
        Bytes of held-out text that the models are measured on.
    models : sequence of ModelReport
        The pruned models.
    rtl : sequence of RtlReport
        The layers that were simulated.
    vector : VectorReport
        The vector whose way was recorded.
    seconds : float
        How long it took.
    """

    seed: int
    cells: str
    vectors: int
    prompt: str
    evaluated: int
    models: Sequence[ModelReport]
    rtl: Sequence[RtlReport]
    vector: VectorReport
    seconds: float

    @property
    def failures(self) -> tuple[str, ...]:
        """What is wrong with the hardware, in sentences that say where; nothing if all is well."""
        return (*(failure for entry in self.rtl for failure in entry.failures), *self.vector.failures)

    @property
    def runs(self) -> list[RunReport]:
        """All simulations."""
        return [run for entry in self.rtl for run in (entry.sparse, entry.dense)] + [self.vector.run]

    @property
    def verdict(self) -> str:
        """What the simulations say of the hardware, in one sentence."""
        runs = self.runs
        exact, on_time = sum(run.is_exact for run in runs), sum(run.is_on_time for run in runs)
        outputs = sum(run.outputs_compared for run in runs)
        return (
            f"RTL equals the golden model in {exact} of {len(runs)} simulations ({outputs:,} outputs compared bit for "
            f"bit); cycles equal the cycle model in {on_time} of {len(runs)}."
        )

    def measured(self, model: ModelReport, layer: LayerReport) -> RtlReport | None:
        """The layer's simulation on the macro, and with the vectors, that its cycles are for, if there was one."""
        wanted = (model.name, layer.name, self.cells, self.vectors)
        found = (entry for entry in self.rtl if (entry.model, entry.layer, entry.cells, entry.vectors) == wanted)
        return next(found, None)

    def to_json(self) -> str:
        """The report as JSON."""
        document = {
            "seed": self.seed,
            "cells": self.cells,
            "vectors": self.vectors,
            "prompt": self.prompt,
            "evaluated_bytes": self.evaluated,
            "models": [model.to_mapping() for model in self.models],
            "rtl": [entry.to_mapping() for entry in self.rtl],
            "vector": asdict(self.vector),
            "failures": self.failures,
            "seconds": round(self.seconds, 1),
        }
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
