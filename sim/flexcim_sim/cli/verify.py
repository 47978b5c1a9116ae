"""``flexcim verify``: check the Verilog of any configuration against the golden model and the cycle model."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from flexcim.cli.configuration import Configs, Presets, chosen_configurations
from flexcim.cli.console import shown_steps, table_console
from flexcim.errors import FlexCiMError
from flexcim.files import check_writable, named_folder, writing

if TYPE_CHECKING:
    from flexcim_sim.bench.run.coverage_file import CoverageRecord
    from flexcim_sim.bench.run.verify import Verification

__all__ = ["verify"]

_HOLES_SHOWN = 8
"""Combinations of bins that were never hit, of which a line each is printed; --coverage tells every cross."""


class VerifyError(FlexCiMError):
    """A call of ``flexcim verify`` that cannot be carried out."""


class Simulator(str, Enum):
    """What --simulator may be."""

    verilator = "verilator"
    icarus = "icarus"
    both = "both"


def verify(
    config: Configs = None,
    preset_name: Presets = None,
    simulator: Annotated[
        Simulator, typer.Option(help="Icarus finds unknown values, but is slow on more than some hundred cells.")
    ] = Simulator.verilator,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of all random stimuli; by default another one each time.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Simulations at once; by default as many as there are cores.")
    ] = None,
    waves: Annotated[
        bool, typer.Option("--waves", help="Write waves of everything, not only of tests that failed.")
    ] = False,
    full_coverage: Annotated[
        bool,
        typer.Option(
            "--full-coverage",
            help="Play on, aiming at legal crosses of the coverage that no test has hit, until all are hit.",
        ),
    ] = False,
    coverage: Annotated[
        Path | None,
        typer.Option(
            help="JSON file for the coverage: every legal cross with its number of runs. Calls on the same Verilog "
            "in the same simulator add up in it.",
            metavar="FILE",
        ),
    ] = None,
    init: Annotated[
        bool, typer.Option("--init/--no-init", help="With or without initial values of registers in the Verilog.")
    ] = True,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", parser=named_folder, metavar="FOLDER", help="Folder for results, logs and waves."
        ),
    ] = Path("build/verify"),
) -> None:
    """Generate macros or accelerators, simulate them, and compare every result and every cycle with the models.

    Played are each pattern at each number of groups, random programs with
    and without pauses on every stream, accumulation over K tiles, resident
    weights, resets in mid-run, and every kind of illegal command. What fails
    runs again with waves. Writes results.json and results.xml (JUnit).

    The functional coverage is measured at the Verilog's pins: crosses of
    pattern, groups, bits per cycle, K tiles, stall, bank and position among
    the K tiles, and for accelerators of where activations came from. Tables
    show how many of the legal crosses were hit, and lines what was not.

    Exit code 1 if a test failed, 2 if the input cannot be used.

    Builds are kept, so the next call on the same configuration starts at
    once: in a checkout in build/sim, else in flexcim/sim of the user's cache
    folder. FLEXCIM_BUILD names another folder instead of build or flexcim.

    Examples: `flexcim verify --preset board --simulator both`,
    `flexcim verify --config my.toml --seed 7 --waves`,
    `flexcim verify --preset board --full-coverage --coverage board.json`
    """
    chosen = chosen_configurations(config, preset_name)
    simulators = ["verilator", "icarus"] if simulator is Simulator.both else [simulator.value]
    seed = secrets.randbelow(1 << 31) if seed is None else seed
    # cocotb and Amaranth take a second to import; --help and mistyped options need neither.
    from flexcim_sim.bench.run.coverage_file import CoverageRecord, merge_records, read_records, write_records
    from flexcim_sim.bench.run.results import check_results, write_results
    from flexcim_sim.bench.run.verify import verify_configuration
    from flexcim_sim.build.simulators import check_tools
    from flexcim_sim.workers import workers

    for name in simulators:
        check_tools(name)
    earlier = read_records(coverage) if coverage else []
    print(f"seed {seed}", flush=True)
    output = output.absolute()
    check = partial(verify_configuration, seed=seed, init=init, waves=waves, full_coverage=full_coverage)
    work = [
        (f"{label}, {name}", check, (label, one, name, output / f"{label}-{name}"))
        for label, one in chosen.items()
        for name in simulators
    ]
    count = min(jobs or os.cpu_count() or 1, len(work))
    with writing(output, VerifyError):
        check_results(output)
    if coverage:
        with writing(coverage, VerifyError):
            check_writable(coverage)
    with writing(output, VerifyError), shown_steps(len(work)) as steps:

        def done(text: str) -> None:
            steps.tell(f"done: {text}")
            steps.done()

        with workers(count, done) as pool:
            verifications = pool.run(work)
        as_json, as_xml = write_results(output, verifications)
    new = [CoverageRecord.of(verification) for verification in verifications]
    records = merge_records([*earlier, *new])
    if coverage:
        with writing(coverage, VerifyError):
            write_records(coverage, records)
    _show_coverage([record for record in records if any(map(record.fits, new))])
    _show(verifications)
    print(f"written: {', '.join(map(str, (as_json, as_xml, *([coverage] if coverage else []))))}")
    if any(verification.failed for verification in verifications):
        raise typer.Exit(1)


def _show_coverage(records: Sequence[CoverageRecord]) -> None:
    """Print, for each configuration and simulator, how much of each bin was hit, and what was not."""
    for record in records:
        name, coverage = f"{record.label}, {record.simulator}", record.coverage
        right = ("legal crosses", "hit", "%", "runs")
        table = Table("axis", "bin", *(Column(text, justify="right") for text in right), title=f"coverage of {name}")
        axis = ""
        for count in coverage.bins():
            if axis and count.axis != axis:
                table.add_section()
            share = f"{100 * count.hit / count.legal:.1f}" if count.legal else ""
            shown = count.axis if count.axis != axis else ""
            table.add_row(shown, count.bin, f"{count.legal:,}", f"{count.hit:,}", share, f"{count.runs:,}")
            axis = count.axis
        table_console().print(table)
        print(
            f"coverage of {name}: {coverage.hit:,} of {coverage.legal:,} legal crosses hit "
            f"({100 * coverage.hit / coverage.legal:.1f} %), seeds {', '.join(map(str, record.seeds))}"
        )
        for hole in coverage.holes(_HOLES_SHOWN):
            print(f"  not hit: {hole} ({hole.crosses:,} crosses)")


def _show(verifications: Sequence[Verification]) -> None:
    """Print a row for each verification, and what failed in it."""
    right = ("tests passed", "results compared", "cycles", "crosses hit", "build s", "run s")
    table = Table("configuration", "simulator", *(Column(name, justify="right") for name in right))
    for verification in verifications:
        outcomes = verification.outcomes
        table.add_row(
            verification.label,
            verification.simulator,
            f"{len(outcomes) - len(verification.failed)} of {len(outcomes)}",
            f"{sum(outcome.results for outcome in outcomes):,}",
            f"{sum(outcome.cycles for outcome in outcomes):,}",
            f"{verification.coverage.hit:,} of {verification.coverage.legal:,}",
            f"{verification.build_seconds:.1f}",
            f"{sum(outcome.seconds for outcome in outcomes):.1f}",
        )
    table_console().print(table)
    for verification in verifications:
        for outcome in verification.failed:
            where = f"{verification.label}, {verification.simulator}, {outcome.name}"
            print(f"flexcim: {where}: {outcome.message}", file=sys.stderr)
        if verification.waves:
            print(f"waves: {verification.waves}")
