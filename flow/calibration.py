"""Calibration: samples of a text pass the blocks, and each linear layer's inputs are measured on the way."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from flexcim.errors import FlexCiMError
from flow.blocks import Block, LinearLayer
from flow.options import BATCH_TOKENS

__all__ = ["BlockStream", "CalibrationError", "InputStatistics", "observe"]


class CalibrationError(FlexCiMError):
    """A model that cannot be calibrated on these samples; the message is one sentence that names the layer."""


@dataclass
class InputStatistics:
    """What was seen of one layer's inputs.

    Parameters
    ----------
    inputs : int
        Input features of the layer.
    tokens : int
        Tokens that were seen.
    largest : float
        Largest magnitude among them.

    Attributes
    ----------
    squares : Tensor
        Sum of squares of each input feature, [inputs], float64.
    """

    inputs: int
    tokens: int = 0
    largest: float = 0.0
    squares: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.squares = torch.zeros(self.inputs, dtype=torch.float64)

    @property
    def norms(self) -> Tensor:
        """L2 norm of each input feature over all tokens, [inputs], float32."""
        return self.squares.sqrt().float()

    def add(self, activations: Tensor) -> None:
        """Take inputs [..., inputs] into account."""
        flat = activations.detach().flatten(0, -2).float()
        self.tokens += len(flat)
        self.largest = max(self.largest, flat.abs().max().item())
        self.squares += flat.square().sum(dim=0, dtype=torch.float64)


@contextlib.contextmanager
def observe(layers: Iterable[LinearLayer]) -> Iterator[dict[str, InputStatistics]]:
    """Measure the inputs of layers for as long as the context is open.

    Yields
    ------
    dict
        Statistics by the layer's name, filled by each forward pass.
    """
    statistics: dict[str, InputStatistics] = {}
    with contextlib.ExitStack() as hooks:
        for layer in layers:
            of_layer = statistics[layer.name] = InputStatistics(layer.shape[1])

            def hook(module: nn.Module, arguments: tuple[Tensor], of_layer: InputStatistics = of_layer) -> None:
                of_layer.add(arguments[0])

            hooks.callback(layer.module.register_forward_pre_hook(hook).remove)
        yield statistics


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

    Attributes
    ----------
    dense : dict
        Statistics of all layers' inputs in the dense model, by the layer's name.

    Raises
    ------
    CalibrationError
        If no token reaches a layer, or its inputs are not finite.
    """

    def __init__(self, model: PreTrainedModel, blocks: Sequence[Block], samples: Tensor) -> None:
        self._blocks = blocks
        self._current = 0
        self._hidden: list[Tensor] = []
        self._calls: dict[str, list[_Call]] = {block.name: [] for block in blocks}
        with contextlib.ExitStack() as stack, torch.no_grad():
            for block in blocks:
                recorder = self._recorder(block)
                stack.callback(block.module.register_forward_pre_hook(recorder, with_kwargs=True).remove)
            self.dense = stack.enter_context(observe(layer for block in blocks for layer in block.layers))
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

    def measure(self) -> dict[str, InputStatistics]:
        """Statistics of the inputs of the current block's layers, by name; the stream stays where it is."""
        return self._run(advance=False)

    def advance(self) -> dict[str, InputStatistics]:
        """Like `measure`; then the block's outputs become the inputs of the next one."""
        return self._run(advance=True)

    def _run(self, *, advance: bool) -> dict[str, InputStatistics]:
        block = self._blocks[self._current]
        with torch.no_grad(), observe(block.layers) as statistics:
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
