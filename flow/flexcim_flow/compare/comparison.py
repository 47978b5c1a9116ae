"""Comparison: one model pruned in several ways, each measured on the same text, with its standard error."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from flexcim.config.macro import PRESETS, MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.errors import FlexCiMError
from flexcim.quiet import quiet
from flexcim_flow.choice.budgets import CycleBudget, SparsityBudget
from flexcim_flow.common.journal import Journal, file_facts
from flexcim_flow.common.options import DEFAULT_VECTORS, Method, Score, Update
from flexcim_flow.measure.evaluation import Evaluation, added_loss, evaluate
from flexcim_flow.measure.multiple_choice import Question, answer, read_questions
from flexcim_flow.model.checkpoint import Checkpoint, load_checkpoint
from flexcim_flow.prune.calibration import check_abilities, tokens_of, window_of
from flexcim_flow.prune.pruner import problem_of, prune
from flexcim_flow.prune.request import PruneRequest, Setting
from flexcim_flow.prune.result import PruneResult, quantized
from flexcim_flow.samples.text import check_unseen, read_text

__all__ = ["Comparison", "ComparisonError", "ComparisonRequest", "Row", "Way", "compare", "ways_of"]


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
    sparsity_target, sparsity_chosen, sparsity : float
        What was asked for, what the chosen patterns drop, and the share of the block layers' weights that are zero.
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
    sparsity_chosen: float
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


@dataclass(frozen=True, kw_only=True)
class ComparisonRequest(Setting):
    """What a comparison is asked for.

    Parameters
    ----------
    model : path
        Local folder of a causal language model in Hugging Face format; the whole model must fit in memory.
    calibration, samples, length, stride
        As in `Setting`.
    evaluation : path
        UTF-8 file to measure the loss on.
    config : MacroConfig
        The macro whose menu is used and whose cycles are counted; it must have 1:1.
    ways : sequence of Way
        The ways.
    vectors : int
        Vectors that the cycles are counted for.
    questions : path, optional
        JSONL file of multiple-choice questions.

    Raises
    ------
    FlexCiMError
        If there is no text to evaluate on, or an option or a way means nothing.
    """

    config: MacroConfig = PRESETS["flexcim"]
    ways: Sequence[Way]
    vectors: int = DEFAULT_VECTORS
    questions: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evaluation is None:
            raise ComparisonError("a comparison needs a text to evaluate on")
        if self.vectors < 1:
            raise ComparisonError(f"a comparison counts cycles for at least one vector, not {self.vectors}")
        for way in self.ways:
            self.of(way)  # a request of its own, which looks at its sparsity and seed

    def of(self, way: Way) -> PruneRequest:
        """What pruning in one way is asked for."""
        return PruneRequest(
            model=self.model,
            calibration=self.calibration,
            config=self.config,
            samples=self.samples,
            length=self.length,
            budget=SparsityBudget(way.sparsity),
            method=way.method,
            score=way.score,
            update=way.update,
            seed=way.seed,
            device="cpu",
        )

    def facts(self) -> dict[str, Any]:
        """All that the result depends on, as JSON's plain values; files by their checksums."""
        return {
            "config": self.config.to_mapping(),
            "ways": [str(way) for way in self.ways],
            "vectors": self.vectors,
            "questions": file_facts(self.questions),
            **super().facts(),
        }


@quiet()
def compare(
    request: ComparisonRequest,
    *,
    journal: Journal | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Prune a causal language model in several ways, and measure each on a text that no calibration has seen.

    Parameters
    ----------
    request : ComparisonRequest
        What is asked for.
    journal : Journal, optional
        Keeps each row, for a process that goes on.
    progress : callable, optional
        Told the name of each step, how many are done and how many there are.

    Raises
    ------
    FlexCiMError
        If an input or an option cannot be used; the message is one sentence.
    """
    judge = _Judge.of(request)
    once = (lambda name, find: find()) if journal is None else journal.once
    told = progress or (lambda name, done, total: None)
    ways = request.ways
    for way in ways:
        check_abilities(request.of(way), judge.checkpoint)
        problem_of(request.of(way), judge.checkpoint)
    told("measuring the dense model", 0, len(ways) + 1)
    dense = Evaluation.from_mapping(once("dense", lambda: judge.measure(judge.checkpoint.model).to_mapping()))
    accuracy_dense = once("dense-accuracy", lambda: judge.right(judge.checkpoint.model)[0])
    rows = []
    for index, way in enumerate(ways):
        told(str(way), index + 1, len(ways) + 1)
        rows.append(Row(**once(f"row-{index}", partial(_row, request, way, judge, dense))))
    return Comparison(judge.checkpoint.name, request.vectors, accuracy_dense, tuple(rows))


@dataclass(frozen=True, eq=False)
class _Judge:
    """Measures models on the text, and by the questions."""

    checkpoint: Checkpoint
    tokens: Tensor
    size: int
    length: int
    stride: int | None
    questions: Sequence[Question]

    @classmethod
    def of(cls, request: ComparisonRequest) -> _Judge:
        assert request.evaluation is not None, "a request has a text to evaluate on"
        text = read_text(request.evaluation)
        check_unseen(read_text(request.calibration), text)
        questions = () if request.questions is None else read_questions(request.questions)
        checkpoint = load_checkpoint(request.model)
        if not checkpoint.model.can_generate():
            raise ComparisonError(f"{checkpoint.name} does not predict the next token, so there is no loss to compare")
        length = window_of(request.length, checkpoint)
        return cls(checkpoint, tokens_of(text, checkpoint), len(text.encode()), length, request.stride, questions)

    def measure(self, model: PreTrainedModel) -> Evaluation:
        return evaluate(model, self.tokens, self.size, self.length, self.stride)

    def right(self, model: nn.Module) -> tuple[float | None, float | None]:
        """Share of right answers and its standard error; None without questions."""
        if not self.questions:
            return None, None
        assert self.checkpoint.tokenizer is not None, "a model that predicts tokens has a tokenizer"
        found = answer(model, self.checkpoint.tokenizer, self.questions, self.checkpoint.context)
        return found.accuracy_by_byte, found.standard_error(found.accuracy_by_byte)


def _row(request: ComparisonRequest, way: Way, judge: _Judge, dense: Evaluation) -> dict[str, Any]:
    """Prune in one way, and measure; the row as JSON's plain values."""
    begun = time.perf_counter()
    result = prune(request.of(way))
    seconds = time.perf_counter() - begun
    pruned = judge.measure(result.checkpoint.model)
    with quantized(result.layers):
        integers = judge.measure(result.checkpoint.model)
    added = added_loss(dense, pruned)
    accuracy, accuracy_error = judge.right(result.checkpoint.model)
    cycles, cycles_dense = _cycles(result, request.vectors)
    row = Row(
        method=way.method.value,
        score=result.treatment.score.value,
        update=result.treatment.update.value,
        seed=way.seed,
        sparsity_target=way.sparsity,
        sparsity_chosen=result.chosen_sparsity,
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
    return asdict(row)


def _cycles(result: PruneResult, vectors: int) -> tuple[int, int]:
    """Cycles of all layers, one after the other, pruned and as 1:1."""
    counted = CycleBudget(1.0, result.config, vectors)
    shapes = [(layer.tiling.outputs, layer.tiling.inputs) for layer in result.layers]
    cycles = sum(counted.takes(*shape, layer.pattern) for shape, layer in zip(shapes, result.layers, strict=True))
    return cycles, sum(counted.takes(*shape, Pattern(1, 1)) for shape in shapes)
