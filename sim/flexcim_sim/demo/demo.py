"""The demonstration, from two checkpoints to a report."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flexcim.errors import FlexCiMError
from flexcim.files import check_writable, write_bytes, write_text
from flexcim_hw.verilog.macro import GeneratedVerilog
from flexcim_sim.build.simulators import check_tools
from flexcim_sim.demo.instances import FULL, FULL_DENSE, SMALL, SMALL_DENSE, Instance, prepare
from flexcim_sim.demo.markdown import CYCLES_PLOT, DENSITY_PLOT, markdown
from flexcim_sim.demo.plots import cycles_figure, density_figure
from flexcim_sim.demo.pruning import LayerSample, PruneJob, PruneOutcome, prune_model
from flexcim_sim.demo.report import Report, RtlReport, RunReport
from flexcim_sim.demo.simulation import SimulationJob, simulate
from flexcim_sim.workers import Job, Workers, workers

__all__ = ["DemoError", "Options", "run_demo", "write_report"]

_INSTANCES = (FULL, FULL_DENSE, SMALL, SMALL_DENSE)

_JSON, _MARKDOWN = "report.json", "report.md"

_SMALL_VECTORS = 16
"""Vectors for the small macro, which runs in the slow simulator."""


class DemoError(FlexCiMError):
    """A demonstration that cannot be given; the message is one sentence."""


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
    for instance in _INSTANCES:
        check_tools(instance.simulator)
    _check_folder(options.output)
    steps = len(_INSTANCES) + len(options.models)
    expect_steps(steps)
    try:
        with workers(options.jobs, done) as pool:
            verilogs, models = _prepare(options, pool)
            expect_steps(steps + 2 * (1 + sum(len(model.full) for model in models)))
            rtl = _simulate(options, pool, verilogs, models)
    except OSError as error:
        raise DemoError(f"{error.filename or options.output}: cannot be written ({error.strerror})") from None
    return Report(
        seed=options.seed,
        cells=FULL.cells,
        vectors=options.vectors,
        models=[model.report for model in models],
        rtl=rtl,
        seconds=time.perf_counter() - begun,
    )


def _check_folder(folder: Path) -> None:
    """Make the folder, and raise DemoError if the report cannot be written into it."""
    try:
        check_writable(*(folder / name for name in (DENSITY_PLOT, CYCLES_PLOT, _JSON, _MARKDOWN)))
    except OSError as error:
        raise DemoError(f"{error.filename}: cannot be written ({error.strerror})") from None


def _prepare(options: Options, pool: Workers) -> tuple[dict[Instance, GeneratedVerilog], list[PruneOutcome]]:
    """Build the simulators and prune the models, which do not depend on each other; the longest jobs first."""

    def build(instance: Instance) -> Job:
        text = f"{instance.preset} {instance.cells} generated and built for {instance.simulator}"
        return text, prepare, (instance, options.output / "rtl")

    prunes: list[Job] = []
    for model in options.models:
        job = PruneJob(
            model=model,
            calibration=options.calibration,
            heldout=options.heldout,
            packed=options.output / "packed" / model.name,
            config=FULL.config,
            dense=FULL_DENSE.config,
            sparsity=options.sparsity,
            seed=options.seed,
            vectors=options.vectors,
            layers=options.layers,
        )
        prunes.append((f"{model.name} pruned, evaluated and packed", prune_model, (job,)))
    results = pool.run([build(_INSTANCES[0]), *prunes, *map(build, _INSTANCES[1:])])
    count = len(prunes)
    return dict(zip(_INSTANCES, [results[0], *results[1 + count :]], strict=True)), results[1 : 1 + count]


def _simulate(
    options: Options, pool: Workers, verilogs: dict[Instance, GeneratedVerilog], models: Sequence[PruneOutcome]
) -> list[RtlReport]:
    """Run the chosen layers, each on an instance and on the dense one of the same size."""
    smallest = min(models, key=lambda model: model.small.weights.size)
    small = replace(smallest.small, activations=smallest.small.activations[:_SMALL_VECTORS])
    # The slow simulator first, so that it does not run alone in the end.
    pairs = [(smallest, small, SMALL, SMALL_DENSE)]
    pairs += [(model, sample, FULL, FULL_DENSE) for model in models for sample in model.full]

    def job(model: PruneOutcome, sample: LayerSample, instance: Instance) -> Job:
        name = f"{model.report.name}, {sample.packed.name}"
        folder = options.output / "simulations" / re.sub(r"[^\w.-]+", "-", f"{name}-{instance.label}")
        simulation = SimulationJob(sample=sample, instance=instance, verilog=verilogs[instance], folder=folder)
        return f"{name} on {instance.preset} {instance.cells} in {instance.simulator}", simulate, (simulation,)

    runs: list[RunReport] = pool.run(
        [job(model, sample, macro) for model, sample, *macros in pairs for macro in macros]
    )
    reports = [
        RtlReport(
            model=model.report.name,
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
    return [*reports[1:], reports[0]]


def write_report(folder: Path, report: Report) -> None:
    """Write ``report.json``, ``report.md`` and its figures.

    Raises
    ------
    DemoError
        If the folder cannot be written.
    """
    _check_folder(folder)
    try:
        write_bytes(folder / DENSITY_PLOT, density_figure(report))
        write_bytes(folder / CYCLES_PLOT, cycles_figure(report))
        write_text(folder / _JSON, report.to_json())
        write_text(folder / _MARKDOWN, markdown(report))
    except OSError as error:
        raise DemoError(f"{folder}: cannot be written ({error.strerror})") from None
