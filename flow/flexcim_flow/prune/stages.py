"""The stages of a run on its evaluation text: dense, pruned, recovered, and in the macro's integers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from flexcim_flow.measure.evaluation import Evaluation, evaluate_blocks
from flexcim_flow.model.blocks import Block
from flexcim_flow.model.checkpoint import Checkpoint
from flexcim_flow.prune.calibration import tokens_of
from flexcim_flow.prune.result import Evaluations

__all__ = ["Meter"]


class Meter:
    """Measures a model, stage by stage, on one text; if there is none, it measures nothing.

    Parameters
    ----------
    checkpoint : Checkpoint
        The model, whatever is done to it between the stages.
    text : str or None
        The text.
    length, stride : int
        Windows, as in `flexcim_flow.measure.evaluation.evaluate`; the stride may be None.
    once : callable
        `Journal.once`, so that no stage is measured twice.
    begin : callable
        Told the name of each measurement before it begins.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        text: str | None,
        length: int,
        stride: int | None,
        once: Callable[[str, Callable[[], Any]], Any],
        begin: Callable[[str], None],
    ) -> None:
        self._checkpoint = checkpoint
        self._text = text
        self._windows = length, stride
        self._once = once
        self._begin = begin
        self._found: dict[str, Evaluation] = {}

    def measure(
        self, stage: str, during: Callable[[Block], AbstractContextManager[None]] = lambda block: nullcontext()
    ) -> None:
        """Measure the model as it is now.

        Parameters
        ----------
        stage : str
            A field of `Evaluations`.
        during : callable, optional
            Gives a context that is open while a block, which is loaded, runs.
        """
        if self._text is None:
            return
        self._begin(f"evaluating the {stage.replace('_', ', ')} model")
        model, blocks = self._checkpoint.model, self._checkpoint.blocks
        tokens, size = tokens_of(self._text, self._checkpoint), len(self._text.encode())
        found = self._once(
            f"evaluation-{stage}",
            lambda: evaluate_blocks(model, blocks, tokens, size, *self._windows, during).to_mapping(),
        )
        self._found[stage] = Evaluation.from_mapping(found)

    @property
    def evaluations(self) -> Evaluations | None:
        """All stages; None without a text."""
        return Evaluations(**self._found) if self._found else None
