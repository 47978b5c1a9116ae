"""Calibration: samples of a text pass the blocks, and each linear layer's inputs are measured on the way."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from flexcim.errors import FlexCiMError
from flow.blocks import Block
from flow.options import BATCH_TOKENS
from flow.statistics import InputStatistics, observe

__all__ = ["BlockStream", "CalibrationError"]


class CalibrationError(FlexCiMError):
    """A model that cannot be calibrated on these samples; the message is one sentence that names the layer."""


def _check_seen(statistics: dict[str, InputStatistics]) -> None:
    for name, seen in statistics.items():
        if not seen.tokens:
            raise CalibrationError(f"no calibration token reaches {name}, so its weights cannot be compared")
        if not seen.squares.isfinite().all():
            raise CalibrationError(f"the inputs of {name} are not finite on the calibration text")


@dataclass(frozen=True)
class _Call:
    """What the model hands a block besides the hidden states: masks, positions and the like."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


class BlockStream:
    """Calibration samples on their way through the blocks.

    When it is made, the samples pass the whole dense model once; the inputs of the first block are kept, and how the
    model calls each block. From then on only the inputs of the current block are in memory, and each block runs on its
    own. A block that is pruned before `advance` hands its pruned outputs on, so that the next one is measured on what
    it will really get (as Wanda does).

    Parameters
    ----------
    model : PreTrainedModel
        The model.
    blocks : sequence of Block
        Its stack.
    samples : Tensor
        [samples, length], int64.
    moments : bool
        Whether the dense statistics have second moments.

    Attributes
    ----------
    dense : dict
        Statistics of all layers' inputs in the dense model, by the layer's name.

    Raises
    ------
    CalibrationError
        If no token reaches a layer, or its inputs are not finite.
    """

    def __init__(
        self, model: PreTrainedModel, blocks: Sequence[Block], samples: Tensor, *, moments: bool = False
    ) -> None:
        self._blocks = blocks
        self._current = 0
        self._hidden: list[Tensor] = []
        self._calls: dict[str, list[_Call]] = {block.name: [] for block in blocks}
        with contextlib.ExitStack() as stack, torch.no_grad():
            for block in blocks:
                recorder = self._recorder(block)
                stack.callback(block.module.register_forward_pre_hook(recorder, with_kwargs=True).remove)
            self.dense = stack.enter_context(
                observe((layer for block in blocks for layer in block.layers), moments=moments)
            )
            for batch in samples.split(max(1, BATCH_TOKENS // samples.shape[1])):
                # The base model ends before the head, whose logits nobody needs here.
                model.base_model(input_ids=batch, use_cache=False)
        _check_seen(self.dense)

    def _recorder(self, block: Block) -> Callable[..., None]:
        def record(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            keywords = dict(keywords)
            hidden = keywords.pop("hidden_states", None)
            if hidden is None:
                hidden, *rest = arguments
                arguments = tuple(rest)
            if block is self._blocks[0]:
                self._hidden.append(hidden)
            self._calls[block.name].append(_Call(arguments, keywords))

        return record

    def forget(self) -> None:
        """Drop the dense statistics, which take much memory if they have second moments."""
        self.dense = {}

    def measure(self, *, moments: bool = False) -> dict[str, InputStatistics]:
        """Statistics of the inputs of the current block's layers, by name, with second moments if they are asked for;
        the stream stays where it is."""
        return self._run(advance=False, moments=moments)

    def advance(self) -> dict[str, InputStatistics]:
        """Like `measure`; then the block's outputs become the inputs of the next one."""
        return self._run(advance=True, moments=False)

    def _run(self, *, advance: bool, moments: bool) -> dict[str, InputStatistics]:
        block = self._blocks[self._current]
        with torch.no_grad(), observe(block.layers, moments=moments) as statistics:
            for index, call in enumerate(self._calls[block.name]):
                outputs = block.module(self._hidden[index], *call.arguments, **call.keywords)
                if advance:
                    # Some blocks answer with a tuple that begins with the hidden states.
                    self._hidden[index] = outputs[0] if isinstance(outputs, tuple) else outputs
        _check_seen(statistics)
        if advance:
            del self._calls[block.name]
            self._current += 1
        return statistics
