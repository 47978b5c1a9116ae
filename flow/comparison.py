"""Comparison: one model pruned in several ways, each measured on the same text, with its standard error."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from flexcim.config import MacroConfig
from flexcim.errors import FlexCiMError
from flexcim.pattern import Pattern
from flow.budgets import CycleBudget
from flow.checkpoint import Checkpoint, load_checkpoint
from flow.evaluation import Evaluation, added_loss, evaluate
from flow.journal import Journal
from flow.multiple_choice import Question, answer
from flow.options import DEFAULT_LENGTH, ActivationScale, Method, Score, Update
from flow.pruner import prune
from flow.quiet import quiet
from flow.result import PruneResult, quantized
from flow.text import check_unseen, read_text, tokenize

__all__ = ["Comparison", "ComparisonError", "Row", "Way", "compare", "ways_of"]


class ComparisonError(FlexCiMError):
    """A comparison that cannot be made; the message is one sentence."""


@dataclass(frozen=True)
class Way:
    """A way to prune.

    Parameters
    ----------
    method : Method
        Who chooses the patterns.
    score : Score or None
        What masks are chosen by; None for the method's default.
    update : Update or None
        What happens to the kept weights; None for the method's default.
    sparsity : float
        Least share of the weights to drop.
    seed : int
        Seed of the calibration.
    """

    method: Method
    score: Score | None
    update: Update | None
    sparsity: float
    seed: int

    def __str__(self) -> str:
        parts = [self.method.value, *(part.value for part in (self.score, self.update) if part is not None)]
        return f"{' '.join(parts)} at {self.sparsity:g}, seed {self.seed}"


@dataclass(frozen=True)
class Row:
    """What a way of pruning gave.

    Parameters
    ----------
    method, score, update : str
        Who chose the patterns, what masks were chosen by, and what happened to the kept weights.
    seed : int
        Seed of the calibration.
    sparsity_target, sparsity : float
        What was asked for, and the share of the block layers' weights that are zero.
    loss_dense : float
        Loss of the dense model on the evaluation text, nats per token.
    loss_added : float
        What pruning adds to it.
    standard_error : float
        Standard error of that, window by window against the dense model; NaN for a text of one window.
    loss_added_int8 : float
        What pruning and the macro's integers add together.
    bits_per_byte : float
        Of the pruned model.
    cycles, cycles_dense : int
        Of all layers, one after the other on the macro, pruned and as 1:1.
    accuracy, accuracy_standard_error : float or None
        Share of multiple-choice questions answered right, by byte-normalised likelihood; None without questions.
    seconds : float
        Time that pruning took, measurement apart.
    """

    method: str
    score: str
    update: str
    seed: int
    sparsity_target: float
    sparsity: float
    loss_dense: float
    loss_added: float
    standard_error: float
    loss_added_int8: float
    bits_per_byte: float
    cycles: int
    cycles_dense: int
    accuracy: float | None
    accuracy_standard_error: float | None
    seconds: float

    @property
    def label(self) -> str:
        """Its method, score and update."""
        return f"{self.method}, {self.score}, {self.update}"


@dataclass(frozen=True)
class Comparison:
    """All rows, and what they have in common.

    Parameters
    ----------
    model : str
        Name of the model.
    vectors : int
        Vectors that the cycles are counted for.
    accuracy_dense : float or None
        The dense model's; None without questions.
    rows : tuple of Row
        In the order of the ways.
    """

    model: str
    vectors: int
    accuracy_dense: float | None
    rows: tuple[Row, ...]


def ways_of(
    methods: Sequence[Method],
    updates: Sequence[Update],
    score: Score | None,
    sparsities: Sequence[float],
    seeds: Sequence[int],
) -> tuple[Way, ...]:
    """Every method with every update, or with its own if none is given, at every sparsity with every seed.

    Raises
    ------
    ComparisonError
        If there is none, or one is there twice.
    """
    ways = tuple(
        Way(method, score, update, sparsity, seed)
        for sparsity, method, update, seed in product(sparsities, methods, updates or (None,), seeds)
    )
    if not ways:
        raise ComparisonError("a comparison needs at least one method, one sparsity and one seed")
    for index, way in enumerate(ways):
        if way in ways[:index]:
            raise ComparisonError(f"{way} is asked for twice")
    return ways


@quiet()
def compare(
    model_path: str | os.PathLike[str],
    ways: Sequence[Way],
    *,
    calibration_text: str | os.PathLike[str],
    evaluation_text: str | os.PathLike[str],
    config: MacroConfig,
    samples: int,
    length: int | None = None,
    stride: int | None = None,
    vectors: int,
    questions: Sequence[Question] = (),
    journal: Journal | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Prune a causal language model in several ways, and measure each on a text that no calibration has seen.

    Parameters
    ----------
    model_path : path
        Local folder of a checkpoint in Hugging Face format; the whole model must fit in memory.
    ways : sequence of Way
        The ways.
    calibration_text, evaluation_text : path
        UTF-8 files.
    config : MacroConfig
        The macro whose menu is used and whose cycles are counted; it must have 1:1.
    samples, length, stride
        As in `flow.pruner.prune`.
    vectors : int
        Vectors that the cycles are counted for.
    questions : sequence of Question
        Multiple-choice questions, if any.
    journal : Journal, optional
        Keeps each row, for a process that goes on.
    progress : callable, optional
        Told the name of each step, how many are done and how many there are.

    Raises
    ------
    FlexCiMError
        If an input or an option cannot be used; the message is one sentence.
    """
    text = read_text(evaluation_text)
    check_unseen(read_text(calibration_text), text)
    checkpoint = load_checkpoint(model_path)
    if not checkpoint.model.can_generate():
        raise ComparisonError(f"{checkpoint.name} does not predict the next token, so there is no loss to compare")
    window = length or min(DEFAULT_LENGTH, checkpoint.context or DEFAULT_LENGTH)
    tokens = tokenize(text, _tokenizer(checkpoint))

    def measure(model: PreTrainedModel) -> Evaluation:
        return evaluate(model, tokens, len(text.encode()), window, stride)

    def right(model: nn.Module) -> tuple[float | None, float | None]:
        if not questions:
            return None, None
        found = answer(model, _tokenizer(checkpoint), questions, checkpoint.context)
        return found.accuracy_by_byte, found.standard_error(found.accuracy_by_byte)

    once = (lambda name, find: find()) if journal is None else journal.once
    told = progress or (lambda name, done, total: None)
    told("measuring the dense model", 0, len(ways) + 1)
    dense = Evaluation.from_mapping(once("dense", lambda: measure(checkpoint.model).to_mapping()))
    accuracy_dense = once("dense-accuracy", lambda: right(checkpoint.model)[0])

    def row(way: Way) -> dict[str, Any]:
        begun = time.perf_counter()
        result = prune(
            model_path,
            sparsity=way.sparsity,
            calibration_text=calibration_text,
            config=config,
            method=way.method,
            score=way.score,
            update=way.update,
            samples=samples,
            length=length,
            seed=way.seed,
            activations=ActivationScale.TOKEN,
        )
        seconds = time.perf_counter() - begun
        pruned = measure(result.checkpoint.model)
        with quantized(result.layers):
            integers = measure(result.checkpoint.model)
        added = added_loss(dense, pruned)
        accuracy, accuracy_error = right(result.checkpoint.model)
        cycles, cycles_dense = _cycles(result, vectors)
        return asdict(
            Row(
                method=way.method.value,
                score=result.treatment.score.value,
                update=result.treatment.update.value,
                seed=way.seed,
                sparsity_target=way.sparsity,
                sparsity=result.sparsity,
                loss_dense=dense.loss.value,
                loss_added=added.value,
                standard_error=added.standard_error,
                loss_added_int8=added_loss(dense, integers).value,
                bits_per_byte=pruned.bits_per_byte,
                cycles=cycles,
                cycles_dense=cycles_dense,
                accuracy=accuracy,
                accuracy_standard_error=accuracy_error,
                seconds=seconds,
            )
        )

    rows = []
    for index, way in enumerate(ways):
        told(str(way), index + 1, len(ways) + 1)
        rows.append(Row(**once(f"row-{index}", partial(row, way))))
    return Comparison(checkpoint.name, vectors, accuracy_dense, tuple(rows))


def _tokenizer(checkpoint: Checkpoint) -> Any:
    assert checkpoint.tokenizer is not None, "a model that predicts tokens has a tokenizer"
    return checkpoint.tokenizer


def _cycles(result: PruneResult, vectors: int) -> tuple[int, int]:
    """Cycles of all layers, one after the other, pruned and as 1:1."""
    counted = CycleBudget(1.0, result.config, vectors)
    shapes = [(layer.tiling.outputs, layer.tiling.inputs) for layer in result.layers]
    cycles = sum(counted.takes(*shape, layer.pattern) for shape, layer in zip(shapes, result.layers, strict=True))
    return cycles, sum(counted.takes(*shape, Pattern(1, 1)) for shape in shapes)
