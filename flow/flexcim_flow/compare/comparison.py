"""The pipeline of a comparison: one model is pruned in several ways, each measured on the same text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from flexcim.config.pattern import Pattern
from flexcim.quiet import quiet
from flexcim_flow.choice.budgets import CycleBudget
from flexcim_flow.common.journal import Journal
from flexcim_flow.common.steps import Progress, Steps
from flexcim_flow.compare.request import ComparisonError, ComparisonRequest, Way
from flexcim_flow.compare.result import Comparison, Row
from flexcim_flow.measure.evaluation import Evaluation, added_loss, evaluate
from flexcim_flow.measure.multiple_choice import Question, answer, read_questions
from flexcim_flow.model.checkpoint import Checkpoint, load_checkpoint
from flexcim_flow.prune.calibration import check_abilities
from flexcim_flow.prune.pruner import problem_of, prune
from flexcim_flow.prune.result import PruneResult, quantized
from flexcim_flow.samples.text import check_unseen, read_text
from flexcim_flow.samples.windows import EvaluationText, window_of

__all__ = ["compare"]


@quiet()
def compare(
    request: ComparisonRequest, *, journal: Journal | None = None, progress: Progress | None = None
) -> Comparison:
    """Prune a causal language model in several ways, and measure each on a text that no calibration has seen.

    Parameters
    ----------
    request : ComparisonRequest
        What is asked for.
    journal : Journal, optional
        Keeps each row, for a process that goes on.
    progress : callable, optional
        Told about each step.

    Raises
    ------
    FlexCiMError
        If an input or an option cannot be used; the message is one sentence.
    """
    steps = Steps(progress)
    steps.total = len(request.ways) + 1
    judge = _Judge.of(request)
    once = (lambda name, find: find()) if journal is None else journal.once
    for way in request.ways:
        check_abilities(request.of(way), judge.checkpoint, judge.text.length)
        problem_of(request.of(way), judge.checkpoint)
    steps.begin("measuring the dense model")
    dense = Evaluation.from_mapping(once("dense", lambda: judge.measure(judge.checkpoint.model).to_mapping()))
    accuracy_dense = once("dense-accuracy", lambda: judge.right(judge.checkpoint.model)[0])
    rows = []
    for index, way in enumerate(request.ways):
        steps.begin(str(way))
        rows.append(Row(**once(f"row-{index}", partial(_row, request, way, judge, dense))))
    return Comparison(judge.checkpoint.name, request.vectors, accuracy_dense, tuple(rows))


@dataclass(frozen=True, eq=False)
class _Judge:
    """Measures models on the text, and by the questions; a model is then on the device, as a whole."""

    checkpoint: Checkpoint
    text: EvaluationText
    questions: Sequence[Question]
    place: torch.device

    @classmethod
    def of(cls, request: ComparisonRequest) -> _Judge:
        assert request.evaluation is not None, "a request has a text to evaluate on"
        words = read_text(request.evaluation)
        check_unseen(read_text(request.calibration), words)
        questions = () if request.questions is None else read_questions(request.questions)
        checkpoint = load_checkpoint(request.model)
        if not checkpoint.model.can_generate():
            raise ComparisonError(f"{checkpoint.name} does not predict the next token, so there is no loss to compare")
        text = EvaluationText.of(words, checkpoint, window_of(request.length, checkpoint), request.stride)
        return cls(checkpoint, text, questions, request.place)

    def measure(self, model: PreTrainedModel) -> Evaluation:
        text = self.text
        return evaluate(model.to(self.place), text.tokens.to(self.place), text.size, text.length, text.stride)

    def right(self, model: PreTrainedModel) -> tuple[float | None, float | None]:
        """Share of right answers and its standard error; None without questions."""
        if not self.questions:
            return None, None
        assert self.checkpoint.tokenizer is not None, "a model that predicts tokens has a tokenizer"
        found = answer(model.to(self.place), self.checkpoint.tokenizer, self.questions, self.checkpoint.context)
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
        method=way.method,
        score=result.treatment.score,
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
