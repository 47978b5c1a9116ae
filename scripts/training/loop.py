"""Training: a fixed number of steps from a fixed seed, which can be interrupted, continued and repeated."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.nn import functional
from transformers import PreTrainedModel

from scripts.training.recipes import RECIPES, WINDOW, ModelName, Recipe, build_model

__all__ = ["WINDOWS_PER_STEP", "Run", "train", "warm_up_steps"]

WINDOWS_PER_STEP = 4
"""So every step sees 2048 bytes."""

WARM_UP_STEPS = 100
CHECKPOINT_STEPS = 100  # about once a minute
PLAIN_LINE_STEPS = 50


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that decides the result of a training run."""

    name: ModelName
    steps: int
    seed: int
    threads: int
    bfloat16: bool


class Batches:
    """The windows of each step, a function of the seed and the step alone, so a run can resume.

    Every pass over the text cuts it into windows at a new random offset and shuffles them: each
    byte is read equally often, yet never twice at the same place of a window.
    """

    def __init__(self, tokens: torch.Tensor, seed: int) -> None:
        self.tokens = tokens
        self.count = len(tokens) // WINDOW - 1
        self.epoch = functools.lru_cache(maxsize=2)(functools.partial(self._epoch, seed))

    def _epoch(self, seed: int, number: int) -> tuple[int, list[int]]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        offset = int(torch.randint(WINDOW, (), generator=generator))
        return offset, torch.randperm(self.count, generator=generator).tolist()

    def at(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the inputs of a step and the bytes that follow them, both (4, 512)."""
        rows = []
        for index in range(step * WINDOWS_PER_STEP, (step + 1) * WINDOWS_PER_STEP):
            number, place = divmod(index, self.count)
            offset, order = self.epoch(number)
            start = offset + order[place] * WINDOW
            rows.append(self.tokens[start : start + WINDOW + 1])
        windows = torch.stack(rows)
        return windows[:, :-1], windows[:, 1:]


def build_optimizers(model: PreTrainedModel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the blocks and AdamW for everything else.

    Muon makes every update of a matrix orthogonal, so that all its directions learn equally fast.
    That takes a tenth more time per step and saves far more steps.
    """
    tables = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    outside = {id(module.weight) for module in [*tables, model.get_output_embeddings()]}
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for parameter in model.parameters():
        inside = parameter.ndim == 2 and id(parameter) not in outside
        (matrices if inside else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=recipe.matrix_rate, weight_decay=0.1, momentum=0.95),
        torch.optim.AdamW(others, lr=recipe.other_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def warm_up_steps(steps: int) -> int:
    """Return the length of the warm-up, which a short run cuts."""
    return min(WARM_UP_STEPS, steps // 4)


def rate_factor(step: int, steps: int) -> float:
    """Return the learning rate of a step relative to its peak: linear warm-up, cosine to zero."""
    warm_up = warm_up_steps(steps)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))


def checkpoint_name(run: Run, tokens: torch.Tensor) -> str:
    """Return a file name that changes with whatever changes the weights, so runs do not mix."""
    facts = [dataclasses.asdict(run), dataclasses.asdict(RECIPES[run.name]), torch.__version__]
    digest = hashlib.sha256(json.dumps(facts).encode())
    digest.update(tokens.to(torch.uint8).numpy().tobytes())
    return f"{run.name.value}-{digest.hexdigest()[:12]}.pt"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint in one go, so an interruption leaves the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    torch.save(state, unfinished)
    os.replace(unfinished, path)


@contextlib.contextmanager
def progress_report(title: str, first: int, steps: int, plain: bool) -> Iterator[Callable[[int, float], None]]:
    """Give a function that shows the finished steps, the loss and the time left."""
    if not plain and sys.stdout.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
        with Progress(*columns, TimeRemainingColumn(), TextColumn("left")) as progress:
            task = progress.add_task(title, total=steps, completed=first, state="")

            def show_bar(done: int, bits: float) -> None:
                progress.update(task, completed=done, state=f"{done}/{steps}  loss {bits:.3f} bits/byte")

            yield show_bar
        return

    began = time.monotonic()

    def show_line(done: int, bits: float) -> None:
        if done % PLAIN_LINE_STEPS == 0 or done == steps:
            left = (time.monotonic() - began) / (done - first) * (steps - done) / 60
            typer.echo(f"{title}: step {done}/{steps}, loss {bits:.3f} bits/byte, {left:.1f} min left")

    yield show_line


def train(
    run: Run, tokens: torch.Tensor, checkpoints: Path, restart: bool = False, plain: bool = False
) -> tuple[PreTrainedModel, float]:
    """Train a model, or go on from its checkpoint; return it and the CPU seconds spent in all."""
    recipe = RECIPES[run.name]
    torch.set_num_threads(run.threads)
    torch.manual_seed(run.seed)
    model = build_model(run.name)
    optimizers = build_optimizers(model, recipe)
    batches = Batches(tokens, run.seed)
    checkpoint = checkpoints / checkpoint_name(run, tokens)
    first, cpu_before, smooth = 0, 0.0, 0.0

    if checkpoint.exists() and not restart:
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first, cpu_before, smooth = state["step"], state["cpu_seconds"], state["smooth"]
        typer.echo(f"{recipe.title}: going on from step {first}, which {checkpoint} holds")

    model.train()
    cpu_start = time.process_time()
    parameters = list(model.parameters())
    with progress_report(recipe.title, first, run.steps, plain) as show:
        for step in range(first, run.steps):
            factor = rate_factor(step, run.steps)
            for optimizer, peak in zip(optimizers, (recipe.matrix_rate, recipe.other_rate), strict=True):
                optimizer.param_groups[0]["lr"] = peak * factor
            inputs, targets = batches.at(step)
            if step < recipe.long_from * run.steps:
                # Attention over half the window costs half as much, and is enough to begin with.
                inputs, targets = inputs.reshape(-1, WINDOW // 2), targets.reshape(-1, WINDOW // 2)
            with torch.autocast("cpu", torch.bfloat16, enabled=run.bfloat16):
                logits = model(input_ids=inputs, use_cache=False).logits
            loss = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

            bits = loss.item() / math.log(2)
            done = step + 1
            smooth += max(0.02, 1 / done) * (bits - smooth)  # a plain mean at first, then a moving one
            show(done, smooth)
            if done % CHECKPOINT_STEPS == 0 or done == run.steps:
                state = {
                    "step": done,
                    "smooth": smooth,
                    "cpu_seconds": cpu_before + time.process_time() - cpu_start,
                    "model": model.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                }
                save_checkpoint(checkpoint, state)
    return model, cpu_before + time.process_time() - cpu_start
