"""``flexcim generate-text``: a pruned language model writes, with its linear layers on a chosen backend."""

from __future__ import annotations

import contextlib
import sys
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexcim.cli.configuration import AcceleratorPreset, Config, chosen_accelerator
from flexcim.cli.console import shown_steps
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.packed.plans import NestedPlan

if TYPE_CHECKING:
    from flexcim_sim.runtime.driver import SimulatedAccelerator

__all__ = ["generate_text"]


class BackendName(str, Enum):
    """What --backend may be."""

    torch = "torch"
    golden = "golden"
    verilator = "verilator"


def generate_text(
    model: Annotated[Path, typer.Option(help="Folder that `flexcim prune` wrote: checkpoint and packed model.")],
    prompt: Annotated[str, typer.Option(help="The text to go on from.")],
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to write.")] = 32,
    backend: Annotated[
        BackendName, typer.Option(help="Who multiplies: PyTorch, the golden accelerator, or the simulated RTL.")
    ] = BackendName.golden,
    config: Config = None,
    preset_name: AcceleratorPreset = None,
    plan: Annotated[NestedPlan, typer.Option(help="Of a nested model, the plan of the prefill.")] = NestedPlan.DENSER,
    decode_plan: Annotated[
        NestedPlan | None, typer.Option(help="The plan of decode. \\[default: that of the prefill]")
    ] = None,
) -> None:
    """Let a pruned language model go on from a prompt, its block linear layers on an accelerator.

    The text goes to the standard output, and is the same from each backend: the products are integers. With golden and
    verilator each of them is compared with PyTorch's product of the decoded image, and with verilator the cycles of
    each layer with the cycle model. Tokens are the most likely ones; nothing is drawn at random. A nested model
    (`flexcim nest`) may read the prompt under one plan and write under the other.

    Example: `flexcim generate-text --model build/pruned --prompt "In the beginning" --backend verilator`
    """
    accelerator = chosen_accelerator(config, preset_name)
    # torch and transformers take seconds to import; --help and mistyped options need neither.
    from flexcim_sim.runtime.backends import (
        Backend,
        CheckedBackend,
        GoldenBackend,
        PhasedBackend,
        TorchBackend,
        VerilatorBackend,
    )
    from flexcim_sim.runtime.model import load_pruned

    pruned = load_pruned(model)
    pruned.prompt_ids(prompt, tokens)  # refuses what cannot be written, before a simulation is built
    plans = (plan, decode_plan or plan)
    packed = {one: pruned.packed.under(one) for one in plans}
    with contextlib.ExitStack() as stack:
        chosen: dict[NestedPlan, Backend] = {one: TorchBackend(packed[one]) for one in packed}
        reference = PhasedBackend(*(chosen[one] for one in plans))
        rtl: SimulatedAccelerator | None = None
        if backend is BackendName.golden:
            chosen = {one: GoldenBackend(packed[one], accelerator) for one in packed}
        elif backend is BackendName.verilator:
            rtl = stack.enter_context(_simulated(accelerator))
            chosen = {one: VerilatorBackend(packed[one], rtl) for one in packed}
        phased = PhasedBackend(*(chosen[one] for one in plans))
        checked = None if backend is BackendName.torch else CheckedBackend(phased, reference)
        pruned.run_on(checked or phased)
        begun = time.perf_counter()
        with shown_steps(tokens) as steps:

            def shown(token: int) -> None:
                # The first token is what the prefill ends with.
                reference.decoding = phased.decoding = True
                steps.done("tokens")

            written = pruned.generate(prompt, tokens, shown)
        seconds = time.perf_counter() - begun
        print(prompt + pruned.text(written))
        if checked:
            print(
                f"{checked.products} products compared with PyTorch, {checked.sums:,} sums, all equal; "
                f"{checked.macs / seconds:,.0f} MACs/s",
                file=sys.stderr,
            )
        if rtl:
            print(
                f"{rtl.cycles:,} cycles, as many as the cycle model says; {rtl.elapsed:,} simulated in "
                f"{seconds:.0f} s, {rtl.elapsed / seconds:,.0f} a second",
                file=sys.stderr,
            )


def _simulated(config: AcceleratorConfig) -> SimulatedAccelerator:
    from flexcim_sim.build.library import build_accelerator_library
    from flexcim_sim.runtime.driver import SimulatedAccelerator

    print("building the simulation, unless it has been built before", file=sys.stderr)
    return SimulatedAccelerator(config, build_accelerator_library(config))
