#!/usr/bin/env python3
"""Measure what two plans that share weights, a denser and a sparser one, cost and gain on the shipped models.

Prefill and decode may run under different plans. The held-out text is cut into windows; the first half of each is read
under one plan, the second half under the other, which sees the first one's keys and values, or its recurrent state. The
loss of the second half counts, in the hardware's integers. Each plan is also pruned on its own, and both are taken as
two separate models. All masks are SparseGPT's, all updates least squares; patterns are uniform.

    python scripts/experiments_nested.py -o build/experiments_nested.json
    python scripts/experiments_nested.py --model llama-kjv --stride 6
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor
from torch.nn.functional import cross_entropy

from flexcim.compiler.layer import compile_layer
from flexcim.compiler.model import LayerShape, compile_model
from flexcim.config.accelerator import AcceleratorConfig, accelerator_preset
from flexcim.config.pattern import Pattern, union
from flexcim.files import write_text
from flexcim.quiet import quiet
from flexcim_flow.common.options import DEFAULT_SAMPLES, Update
from flexcim_flow.layer.masks import nm_mask
from flexcim_flow.layer.quantization import QuantizedLinear, quantize_weights
from flexcim_flow.layer.scores import wanda_scores
from flexcim_flow.layer.treatment import Treatment
from flexcim_flow.layer.updates import damped
from flexcim_flow.model.blocks import LinearLayer
from flexcim_flow.model.checkpoint import load_checkpoint
from flexcim_flow.nest.weights import Nested, nest, quantize_nested
from flexcim_flow.passes.statistics import InputStatistics
from flexcim_flow.passes.stream import BlockStream
from flexcim_flow.samples.text import draw_samples, read_text, tokenize

MODELS = Path(__file__).resolve().parents[1] / "models"
LENGTH = 512
PREFILL = LENGTH // 2
PRESETS = ("accelerator", "accelerator-4")
DRAFTS = range(1, 9)
"""Tokens that the sparser plan could draft before the denser one checks them."""

Matrices: TypeAlias = Mapping[str, Tensor]
"""A plan: the weights of each layer, by its name."""

Products: TypeAlias = Mapping[str, QuantizedLinear]
"""A plan in integers: the product of each layer, by its name."""

Settle: TypeAlias = Callable[[LinearLayer, InputStatistics, InputStatistics], tuple[Tensor, Tensor]]
"""Gives a layer's weights under the denser and under the sparser plan, for what it gets under each."""


class Experiment:
    """One model, on calibration and held-out text."""

    def __init__(self, name: str, samples: int, stride: int, seed: int) -> None:
        checkpoint = load_checkpoint(MODELS / name)
        self.model, self.blocks = checkpoint.model, checkpoint.blocks
        twin = load_checkpoint(MODELS / name)  # whose blocks become those of the sparser plan
        self.twin, self.twin_blocks = twin.model, twin.blocks
        self.dense = {layer.name: layer.weight.clone() for block in self.blocks for layer in block.layers}
        calibration = tokenize(read_text(MODELS / "text" / "calibration.txt"), checkpoint.tokenizer)
        self.samples = draw_samples(calibration, samples, LENGTH, seed)
        text = tokenize(read_text(MODELS / "text" / "heldout.txt"), checkpoint.tokenizer)
        self.windows = text[: len(text) // (LENGTH + 1) * (LENGTH + 1)].view(-1, LENGTH + 1)[::stride]

    # -- plans -----------------------------------------------------------------------------------------------------

    def settle(self, settle: Settle) -> tuple[Matrices, Matrices]:
        """Both plans, block by block, each measured on the outputs of its own blocks before."""
        denser = BlockStream(self.model, self.blocks, self.samples)
        sparser = BlockStream(self.twin, self.twin_blocks, self.samples)
        found: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        for block, twin in zip(self.blocks, self.twin_blocks, strict=True):
            of_denser, of_sparser = denser.measure(moments=True), sparser.measure(moments=True)
            for layer, other in zip(block.layers, twin.layers, strict=True):
                weights = settle(layer, of_denser[layer.name], of_sparser[layer.name])
                for plan, place, weight in zip(found, (layer, other), weights, strict=True):
                    place.weight.copy_(weight)
                    plan[layer.name] = place.weight.clone()
            denser.skip()
            sparser.skip()
        for block in (*self.blocks, *self.twin_blocks):
            for layer in block.layers:
                layer.weight.copy_(self.dense[layer.name])
        return found

    def alone(self, denser: Pattern, sparser: Pattern) -> tuple[Matrices, Matrices]:
        """Each plan pruned for itself."""
        treatment = Treatment("obs", Update.LSQ)

        def settle(layer: LinearLayer, *seen: InputStatistics) -> tuple[Tensor, Tensor]:
            weight = self.dense[layer.name]
            first, second = (
                treatment.apply(weight, each, [pattern]).weights[0]
                for each, pattern in zip(seen, (denser, sparser), strict=True)
            )
            return first, second

        return self.settle(settle)

    def nested(self, base: Matrices, rest: Pattern, share: float) -> tuple[Matrices, Matrices]:
        """The sparser plan's weights, and a rest."""

        def settle(layer: LinearLayer, denser: InputStatistics, sparser: InputStatistics) -> tuple[Tensor, Tensor]:
            curvatures = damped(denser.moments), damped(sparser.moments)
            found = nest(self.dense[layer.name], base[layer.name], rest, *curvatures, share=share)
            return found.denser, found.base

        return self.settle(settle)

    def subset(self, whole: Matrices, pattern: Pattern) -> tuple[Matrices, Matrices]:
        """The denser plan's weights, and those of them that matter most to each output, without an update."""

        def settle(layer: LinearLayer, denser: InputStatistics, sparser: InputStatistics) -> tuple[Tensor, Tensor]:
            weight = whole[layer.name]
            return weight, weight * nm_mask(wanda_scores(weight, denser.norms), pattern)

        return self.settle(settle)

    # -- what they do to the text ------------------------------------------------------------------------------------

    def logits(self, prefill: Products, decode: Products) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits of the second half of each window, and the tokens that follow there, batch by batch."""

        def split(name: str) -> Callable[[Tensor], Tensor]:
            # All else in a causal model mixes tokens as it would with a cache or a state of the first ones.
            def product(inputs: Tensor) -> Tensor:
                parts = inputs[..., :PREFILL, :], inputs[..., PREFILL:, :]
                return torch.cat([prefill[name](parts[0]), decode[name](parts[1])], dim=-2)

            return product

        with contextlib.ExitStack() as handles, torch.no_grad():
            for block in self.blocks:
                for layer in block.layers:
                    handles.callback(layer.substitute(split(layer.name)).remove)
            for batch in self.windows.split(4):
                logits = self.model(input_ids=batch[:, :-1], use_cache=False).logits[:, PREFILL:]
                yield logits.float(), batch[:, PREFILL + 1 :]

    def losses(self, prefill: Products, decode: Products) -> NDArray[np.float64]:
        """Mean negative log-likelihood of each window's second half, in nats per token."""
        parts = [
            cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(dim=1, dtype=torch.float64)
            for logits, targets in self.logits(prefill, decode)
        ]
        found: NDArray[np.float64] = torch.cat(parts).numpy()
        return found

    def agreement(self, one: Products, other: Products) -> NDArray[np.float64]:
        """Share of each window's second half where the most likely tokens of two plans are the same."""
        likely = [
            torch.cat([logits.argmax(dim=-1) for logits, _ in self.logits(one, decode)]) for decode in (one, other)
        ]
        found: NDArray[np.float64] = (likely[0] == likely[1]).double().mean(dim=1).numpy()
        return found


def integers(denser: Matrices, sparser: Matrices, *, shared: bool) -> tuple[Products, Products]:
    """Both plans in the hardware's integers, with shared scales if they share weights."""
    products: tuple[dict[str, QuantizedLinear], dict[str, QuantizedLinear]] = ({}, {})
    for name, whole in denser.items():
        if shared:
            of_base = sparser[name] != 0
            base, rest, scales = quantize_nested(Nested(whole * of_base, whole * ~of_base))
            pairs = [(base + rest, scales), (base, scales)]
        else:
            pairs = [quantize_weights(whole), quantize_weights(sparser[name])]
        for plan, pair in zip(products, pairs, strict=True):
            plan[name] = QuantizedLinear(*pair)
    return products


def measure(experiment: Experiment, base: Pattern, rest: Pattern, shares: list[float]) -> list[dict[str, Any]]:
    """Rows: what each pair of plans adds to the dense model's loss."""
    dense, _ = integers(experiment.dense, experiment.dense, shared=False)
    begun = experiment.losses(dense, dense)
    rows: list[dict[str, Any]] = []

    def row(weights: str, prefill: str, decode: str, plans: Mapping[str, Products]) -> None:
        losses = experiment.losses(plans[prefill], plans[decode])
        added = losses - begun
        rows.append(
            {
                "weights": weights,
                "prefill": prefill,
                "decode": decode,
                "bits_per_byte": losses.mean() / math.log(2),
                "added": added.mean(),
                "standard_error": added.std(ddof=1) / math.sqrt(len(added)),
            }
        )
        print(f"  {weights}: {prefill}, then {decode}: {added.mean():.4f}", flush=True)

    alone = experiment.alone(union((base, rest)), base)
    pairs = {"two models": (alone, False)}
    pairs |= {f"nested, share {share:g}": (experiment.nested(alone[1], rest, share), True) for share in shares}
    pairs["subset"] = (experiment.subset(alone[0], base), True)
    row("dense", "dense", "dense", {"dense": dense})
    for name, (matrices, shared) in pairs.items():
        denser, sparser = integers(*matrices, shared=shared)
        plans = {"denser": denser, "sparser": sparser}
        for prefill in plans:
            for decode in plans:
                row(name, prefill, decode, plans)
        equal = experiment.agreement(denser, sparser)
        rows[-1] |= {"agreement": equal.mean(), "agreement_error": equal.std(ddof=1) / math.sqrt(len(equal))}
    return rows


# -- what they cost ----------------------------------------------------------------------------------------------------


def costs(experiment: Experiment, base: Pattern, rest: Pattern, vectors: int) -> list[dict[str, Any]]:
    """Rows: cycles of all layers and bytes of their weight images, for each preset and plan."""
    plans = {"denser, nested": (base, rest), "denser, alone": (union((base, rest)),), "sparser": (base,)}
    rows = []
    for preset in PRESETS:
        config = accelerator_preset(preset)
        for plan, patterns in plans.items():
            if any(pattern not in config.macro.patterns for pattern in patterns):
                continue
            shapes = [LayerShape(name, *weight.shape, *patterns) for name, weight in experiment.dense.items()]
            total = partial(_cycles, config, shapes)
            each = (
                compile_layer(config, one.outputs, one.inputs, one.pattern, 1, rest=one.rest).cycles.weight_words
                for one in shapes
            )
            rows.append(
                {
                    "preset": preset,
                    "plan": plan,
                    "prefill": total(vectors),
                    "decode": total(1),
                    "checks": {draft: total(draft + 1) for draft in DRAFTS} if "nested" in plan else {},
                    "bytes": sum(each) * config.weight_bus // 8,
                }
            )
    return rows


def _cycles(config: AcceleratorConfig, shapes: list[LayerShape], vectors: int) -> int:
    return sum(layer.cycles.cycles for layer in compile_model(config, shapes, vectors).values())


def drafting(costs: list[dict[str, Any]], agreement: float) -> list[dict[str, Any]]:
    """What decode would take if the sparser plan drafted and the denser one checked: the best number of drafts.

    With drafts that agree independently of each other with a chance a, a check of k of them yields
    1 + a + ... + a^k tokens (Leviathan et al., arXiv 2211.17192). All of them are the denser plan's.
    """
    rows = []
    for preset in PRESETS:
        nested, sparser = (
            next(one for one in costs if one["preset"] == preset and one["plan"] == plan)
            for plan in ("denser, nested", "sparser")
        )
        per_token = {
            draft: (draft * sparser["decode"] + check) / sum(agreement**power for power in range(draft + 1))
            for draft, check in nested["checks"].items()
        }
        best = min(per_token, key=lambda draft: per_token[draft])
        rows.append({"preset": preset, "drafts": best, "of_decode": per_token[best] / nested["decode"]})
    return rows


# -- tables ------------------------------------------------------------------------------------------------------------


def show(name: str, rows: list[dict[str, Any]], of_cost: list[dict[str, Any]], vectors: int) -> None:
    """Print what was measured of a model."""
    console = Console(width=120)
    right = ("bits per byte", "nats added", "±", "agrees")
    table = Table("weights", "prefill", "decode", *(Column(one, justify="right") for one in right), title=name)
    for row in rows:
        agrees = f"{row['agreement']:.1%} ± {row['agreement_error']:.1%}" if "agreement" in row else ""
        figures = f"{row['bits_per_byte']:.4f}", f"{row['added']:.4f}", f"{row['standard_error']:.4f}", agrees
        table.add_row(row["weights"], row["prefill"], row["decode"], *figures)
    console.print(table)
    counted = (f"prefill of {vectors}", "decode of 1", "weight bytes")
    table = Table("preset", "plan", *(Column(one, justify="right") for one in counted), title=f"{name}, cycles")
    for row in of_cost:
        table.add_row(row["preset"], row["plan"], *(f"{row[key]:,}" for key in ("prefill", "decode", "bytes")))
    console.print(table)
    for row in rows:
        for one in drafting(of_cost, row["agreement"]) if "agreement" in row and row["weights"] != "two models" else ():
            console.print(
                f"{row['weights']}, {one['preset']}: drafting {one['drafts']} tokens would take "
                f"{one['of_decode']:.2f} of the denser plan's decode cycles"
            )


def main(
    model: Annotated[list[str], typer.Option(help="Models of the repository.")] = ["llama-kjv", "mamba2-kjv"],  # noqa: B006
    base: Annotated[str, typer.Option(help="The sparser plan's pattern.")] = "2:8",
    rest: Annotated[str, typer.Option(help="Pattern of what the denser plan adds.")] = "2:8",
    share: Annotated[list[float], typer.Option(help="What the denser plan counts.")] = [0.0, 0.5, 1.0],  # noqa: B006
    samples: Annotated[int, typer.Option(help=f"Calibration samples of {LENGTH} tokens.")] = DEFAULT_SAMPLES,
    stride: Annotated[int, typer.Option(help="Take each so many-th window of the held-out text; 1 is all of it.")] = 3,
    vectors: Annotated[int, typer.Option(help="Vectors of the prefill that cycles are counted for.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the calibration samples.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write.")] = None,
) -> None:
    """Measure what a model with two plans costs and gains, on the shipped models."""
    torch.set_num_threads(1)
    parts = Pattern.parse(base), Pattern.parse(rest)
    found: dict[str, Any] = {}
    with quiet():
        for name in model:
            print(f"{name}, seed {seed}", flush=True)
            experiment = Experiment(name, samples, stride, seed)
            of_cost = costs(experiment, *parts, vectors)
            rows = measure(experiment, *parts, share)
            found[name] = {"plans": rows, "costs": of_cost}
            if output is not None:
                write_text(output, json.dumps(found, indent=2) + "\n")
    for name, entry in found.items():
        show(name, entry["plans"], entry["costs"], vectors)


if __name__ == "__main__":
    typer.run(main)
