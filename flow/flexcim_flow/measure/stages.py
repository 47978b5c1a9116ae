"""The stages of a run on its evaluation text: dense, pruned, under either plan, and in the macro's integers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from flexcim_flow.measure.evaluation import Evaluation, evaluate_blocks
from flexcim_flow.model.blocks import Block
from flexcim_flow.model.checkpoint import Checkpoint
from flexcim_flow.samples.windows import EvaluationText

__all__ = ["Meter"]


class Meter:
    """Measures a model, stage by stage, on one text; if there is none, it measures nothing.

    Parameters
    ----------
    checkpoint : Checkpoint
        The model, whatever is done to it between the stages.
    text : EvaluationText or None
        The text, in the model's tokens.
    once : callable
        `Journal.once`, so that no stage is measured twice.
    begin : callable
        Told the name of each measurement before it begins.

    Attributes
    ----------
    found : dict
        What was measured, by the stage's name, in order.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        text: EvaluationText | None,
        once: Callable[[str, Callable[[], Any]], Any],
        begin: Callable[[str], None],
    ) -> None:
        self._checkpoint = checkpoint
        self._text = text
        self._once = once
        self._begin = begin
        self.found: dict[str, Evaluation] = {}

    def measure(
        self, stage: str, during: Callable[[Block], AbstractContextManager[None]] = lambda block: nullcontext()
    ) -> None:
        """Measure the model as it is now.

        Parameters
        ----------
        stage : str
            Its name, such as ``dense_quantized``.
        during : callable, optional
            Gives a context that is open while a block, which is loaded, runs.
        """
        text = self._text
        if text is None:
            return
        self._begin(f"evaluating the {stage.replace('_', ', ')} model")
        model, blocks = self._checkpoint.model, self._checkpoint.blocks
        windows = text.tokens, text.size, text.length, text.stride
        found = self._once(f"evaluation-{stage}", lambda: evaluate_blocks(model, blocks, *windows, during).to_mapping())
        self.found[stage] = Evaluation.from_mapping(found)
