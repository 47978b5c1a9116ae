"""The demonstration, from checkpoints to a report."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flexcim.files import check_writable, write_text
from flexcim_flow.cli.inputs import CALIBRATION_TEXT, HELDOUT_TEXT
from flexcim_hw.verilog.macro import GeneratedVerilog
from flexcim_sim.build.simulators import check_tools
from flexcim_sim.demo.errors import DemoError
from flexcim_sim.demo.instances import FULL, FULL_DENSE, SMALL, SMALL_DENSE, Instance, prepare
from flexcim_sim.demo.page import page
from flexcim_sim.demo.pruning import LayerSample, PruneJob, PruneOutcome, prune_as_published, prune_by_default
from flexcim_sim.demo.report import ModelReport, PruningReport, Report, RtlReport, VectorReport
from flexcim_sim.demo.simulation import SimulationJob, simulate
from flexcim_sim.demo.vector import record_vector
from flexcim_sim.workers import Job, Workers, workers

__all__ = ["CALIBRATION_TEXT", "HELDOUT_TEXT", "PAGE", "Options", "run_demo", "write_report"]

_INSTANCES = (FULL, FULL_DENSE, SMALL, SMALL_DENSE)

_JSON = "report.json"

PAGE = "report.html"
"""File name of the page."""

PROMPT = "In the beginning"
"""What the models go on from."""

_TOKENS = 80
"""Tokens that they write: a line of the shipped models, whose tokens are bytes."""

_EVALUATED = 48 * 1024
"""Characters of the held-out text that models are measured on: enough to tell ways of pruning apart, and a fraction of
the time that all of it takes. Its first windows, so that the figures are the same on every machine."""

_SMALL_VECTORS = 16
"""Vectors for the small macro, which runs in the slow simulator."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the demonstration is asked for.

    Parameters
    ----------
    models : sequence of Path
        Folders of checkpoints.
    calibration, heldout : Path
        Texts to calibrate and to evaluate on.
    output : Path
        Folder to write into.
    sparsity : float
        Least share of the weights to drop.
    seed : int
        Seed of the calibration samples.
    layers : int
        Layers of each model to simulate on the whole macro.
    vectors : int
        Vectors of activations.
    jobs : int
        Processes at once.
    """

    models: Sequence[Path]
    calibration: Path
    heldout: Path
    output: Path
    sparsity: float
    seed: int
    layers: int
    vectors: int
    jobs: int


def run_demo(options: Options, *, expect_steps: Callable[[int], None], done: Callable[[str], None]) -> Report:
    """Prune and pack the models, simulate some of their layers, and say what came out.

    Writes the packed models and the instances' Verilog; `write_report` writes the rest.

    Parameters
    ----------
    options : Options
        What is asked for.
    expect_steps : callable
        Told how many steps there will be: those before the simulations, and when these are known, all.
    done : callable
        Told about each step that is done, in words.

    Raises
    ------
    FlexCiMError
        If an input cannot be used, a tool is missing, or the output cannot be written; the message is one sentence.
    """
    begun = time.perf_counter()
    _check_models(options.models)
    for instance in _INSTANCES:
        check_tools(instance.simulator)
    _check_folder(options.output)
    steps = len(_INSTANCES) + 2 * len(options.models)
    expect_steps(steps)
    try:
        with workers(options.jobs, done) as pool:
            verilogs, prepared, published = _prepare(options, pool)
            expect_steps(steps + 3 + 2 * sum(len(model.full) for model in prepared))
            rtl, vector = _simulate(options, pool, verilogs, prepared)
    except OSError as error:
        raise DemoError(f"{error.filename or options.output}: cannot be written ({error.strerror})") from None
    return Report(
        seed=options.seed,
        cells=FULL.cells,
        vectors=options.vectors,
        prompt=PROMPT,
        evaluated=prepared[0].evaluated,
        models=[_model_report(model, other) for model, other in zip(prepared, published, strict=True)],
        rtl=rtl,
        vector=vector,
        seconds=time.perf_counter() - begun,
    )


def _check_models(models: Sequence[Path]) -> None:
    """Raise DemoError if two models have one name, by which the report and the packed models go."""
    names = [model.resolve().name for model in models]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise DemoError(f"two of the models are named {name!r}: {models[names.index(name)]} and {models[index]}")


def _check_folder(folder: Path) -> None:
    """Make the folder, and raise DemoError if the report cannot be written into it."""
    try:
        check_writable(folder / _JSON, folder / PAGE)
    except OSError as error:
        raise DemoError(f"{error.filename}: cannot be written ({error.strerror})") from None


def _prepare(
    options: Options, pool: Workers
) -> tuple[dict[Instance, GeneratedVerilog], list[PruneOutcome], list[PruningReport]]:
    """Build the simulators and prune the models, which do not depend on each other; the longest jobs first."""

    def build(instance: Instance) -> Job:
        text = f"{instance.preset} {instance.cells} generated and built for {instance.simulator}"
        return text, prepare, (instance, options.output / "rtl")

    by_default: list[Job] = []
    as_published: list[Job] = []
    for model in options.models:
        name = model.resolve().name
        job = PruneJob(
            model=model,
            calibration=options.calibration,
            heldout=options.heldout,
            evaluated=_EVALUATED,
            prompt=PROMPT,
            tokens=_TOKENS,
            packed=options.output / "packed" / name,
            config=FULL.config,
            dense=FULL_DENSE.config,
            sparsity=options.sparsity,
            seed=options.seed,
            vectors=options.vectors,
            layers=options.layers,
        )
        by_default.append((f"{name} pruned by FLOW, evaluated and packed", prune_by_default, (job,)))
        as_published.append((f"{name} pruned by the published method and evaluated", prune_as_published, (job,)))
    first, *others = map(build, _INSTANCES)
    results = pool.run([first, *by_default, *as_published, *others])
    ends = 1 + len(by_default), 1 + 2 * len(by_default)
    verilogs = dict(zip(_INSTANCES, [results[0], *results[ends[1] :]], strict=True))
    return verilogs, results[1 : ends[0]], results[ends[0] : ends[1]]


def _model_report(model: PruneOutcome, published: PruningReport) -> ModelReport:
    return ModelReport(
        name=model.name,
        sparsity_target=model.sparsity_target,
        bpb_dense=model.bpb_dense,
        text_dense=model.text_dense,
        default=model.report,
        published=published,
        layers=model.layers,
    )


def _simulate(
    options: Options, pool: Workers, verilogs: dict[Instance, GeneratedVerilog], models: Sequence[PruneOutcome]
) -> tuple[list[RtlReport], VectorReport]:
    """Run the chosen layers, each on an instance and on the dense one of the same size, and record a vector."""
    smallest = min(models, key=lambda model: model.small.weights.size)
    small = replace(smallest.small, activations=smallest.small.activations[:_SMALL_VECTORS])
    # The slow simulator first, so that it does not run alone in the end.
    pairs = [(smallest, small, SMALL, SMALL_DENSE)]
    pairs += [(model, sample, FULL, FULL_DENSE) for model in models for sample in model.full]

    def simulation(model: PruneOutcome, sample: LayerSample, instance: Instance, what: str) -> SimulationJob:
        folder = options.output / "simulations" / re.sub(r"[^\w.-]+", "-", f"{model.name}, {what}-{instance.label}")
        return SimulationJob(sample=sample, instance=instance, verilog=verilogs[instance], folder=folder)

    def job(model: PruneOutcome, sample: LayerSample, instance: Instance) -> Job:
        layer = sample.packed.name
        text = f"{model.name}, {layer} on {instance.preset} {instance.cells} in {instance.simulator}"
        return text, simulate, (simulation(model, sample, instance, layer),)

    recorded = simulation(smallest, small, SMALL, f"vector-{small.packed.name}")
    jobs = [job(model, sample, macro) for model, sample, *macros in pairs for macro in macros]
    jobs.append((f"{smallest.name}, one vector recorded at the pins", record_vector, (smallest.name, recorded)))
    *runs, vector = pool.run(jobs)
    reports = [
        RtlReport(
            model=model.name,
            layer=sample.packed.name,
            simulator=instance.simulator,
            preset=instance.preset,
            cells=instance.cells,
            pattern=str(sample.packed.tiling.pattern),
            limit=1 / sample.packed.tiling.pattern.density,
            vectors=len(sample.activations),
            sparse=sparse,
            dense=dense,
        )
        for (model, sample, instance, _), sparse, dense in zip(pairs, runs[::2], runs[1::2], strict=True)
    ]
    return [*reports[1:], reports[0]], vector


def write_report(folder: Path, report: Report) -> None:
    """Write ``report.json`` and the page, ``report.html``.

    Raises
    ------
    DemoError
        If the folder cannot be written.
    """
    _check_folder(folder)
    try:
        write_text(folder / _JSON, report.to_json())
        write_text(folder / PAGE, page(report))
    except OSError as error:
        raise DemoError(f"{folder}: cannot be written ({error.strerror})") from None
