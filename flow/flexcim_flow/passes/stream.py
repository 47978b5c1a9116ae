"""Samples on their way through a model, block after block, with one block's weights in memory at a time."""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from flexcim.errors import FlexCiMError
from flexcim_flow.model.blocks import Block, LinearLayer
from flexcim_flow.passes.magnitudes import Magnitudes
from flexcim_flow.passes.predictions import Predictions, batch_size, read
from flexcim_flow.passes.statistics import InputStatistics, observe, observe_magnitudes

__all__ = ["BlockStream", "CalibrationError"]


class CalibrationError(FlexCiMError):
    """A model that cannot be calibrated on these samples; the message is one sentence that names the layer."""


def _check_seen(layers: Iterable[LinearLayer], statistics: dict[str, InputStatistics], samples: Tensor) -> None:
    for layer in layers:
        seen = statistics[layer.name]
        # It is no wonder that a text leaves an expert out; any other layer is not used as it seems.
        if not seen.tokens and layer.expert is None:
            raise CalibrationError(f"no calibration token reaches {layer.name}, so its weights cannot be compared")
        if not seen.squares.isfinite().all():
            kind = "text" if samples.ndim == 2 else "images"
            raise CalibrationError(f"the inputs of {layer.name} are not finite on the calibration {kind}")


@dataclass(frozen=True)
class _Call:
    """What the model hands a block besides the hidden states: masks, positions and the like."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


class BlockStream:
    """Samples on their way through the blocks.

    A pass is block-outer, batch-inner: all samples pass one block, then the next, and a block's weights are in memory
    only while samples pass it. How the model calls its blocks is recorded once, with blocks that hand their inputs on
    unchanged; this works for any model that does nothing between its blocks. A block that is pruned before `advance`
    hands its pruned outputs on, so that the next one is measured on what it will really get (as Wanda does).

    In memory are, besides one block: the inputs of the first block and of the current one, [samples, length, hidden]
    each.

    Parameters
    ----------
    model : PreTrainedModel
        The model, in evaluation mode; all but its blocks' weights must be in memory.
    blocks : sequence of Block
        Its stack.
    samples : Tensor
        What the model reads: tokens [samples, length], int64, or images [samples, channels, height, width].
    moments : bool
        Whether the dense statistics have second moments, of all layers at once.
    mask : int, optional
        The token that stands where the model is to predict, as in `Predictions`.

    Raises
    ------
    CalibrationError
        If the model does something between its blocks.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        blocks: Sequence[Block],
        samples: Tensor,
        *,
        moments: bool = False,
        mask: int | None = None,
    ) -> None:
        self._moments = moments
        self._predictions = Predictions.of(model, mask)
        self._model = model
        self._blocks = blocks
        self._samples = samples
        self._batches = samples.split(batch_size(samples))
        self._first: list[Tensor] = []
        self._calls: dict[str, list[_Call]] = {block.name: [] for block in blocks}
        # What blocks answer besides the hidden states; None if they answer with the hidden states alone.
        self._rest: tuple[Any, ...] | None = None
        self._record()
        self.rewind()

    # -- forward -------------------------------------------------------------------------------------------------------

    @cached_property
    def dense(self) -> dict[str, InputStatistics]:
        """Statistics of all layers' inputs before anything is pruned, by the layer's name.

        They are taken in a pass of their own when they are first asked for, which must be before the first `advance`.
        """
        if self._current:
            raise ValueError(f"the dense model is to be measured before {self._current} blocks were passed, not after")
        statistics: dict[str, InputStatistics] = {}
        for _ in self._blocks:
            statistics |= self._pass(advance=True, moments=self._moments)
        self.rewind()
        return statistics

    def forget(self) -> None:
        """Drop the dense statistics, which take much memory if they have second moments."""
        vars(self).pop("dense", None)

    def rewind(self) -> None:
        """Go back to the inputs of the first block."""
        self._current = 0
        self._hidden = list(self._first)

    def measure(self, *, moments: bool = False) -> dict[str, InputStatistics]:
        """Statistics of the inputs of the current block's layers, by name, with second moments if they are asked for;
        the stream stays where it is.

        Raises
        ------
        CalibrationError
            If no token reaches a layer that is no expert, or its inputs are not finite.
        """
        return self._pass(advance=False, moments=moments)

    def advance(self) -> dict[str, Magnitudes]:
        """Pass the current block: its outputs become the inputs of the next one.

        Returns
        -------
        dict
            Magnitudes of the inputs of its layers, by name.
        """
        with observe_magnitudes(self._blocks[self._current].layers) as magnitudes:
            self.skip()
        return magnitudes

    def fork(self) -> BlockStream:
        """Another stream of the same samples, before the first block; both share what the model hands its blocks."""
        other = copy.copy(self)
        other.forget()
        other.rewind()
        return other

    def _pass(self, *, advance: bool, moments: bool) -> dict[str, InputStatistics]:
        block = self._blocks[self._current]
        with torch.no_grad(), block.loaded(), observe(block.layers, moments=moments) as statistics:
            for index in range(len(self._batches)):
                hidden = self._run(block, index, self._hidden[index])
                if advance:
                    self._hidden[index] = hidden.to(self._first[index].device)
        _check_seen(block.layers, statistics, self._batches[0])
        if advance:
            self._current += 1
        return statistics

    def skip(self) -> None:
        """Pass the current block like `advance`, but measure nothing."""
        block = self._blocks[self._current]
        with torch.no_grad(), block.loaded():
            self._hidden = [self._run(block, *item).to(item[1].device) for item in enumerate(self._hidden)]
        self._current += 1

    def losses(self, targets: Tensor | None = None) -> Tensor:
        """Negative log-likelihood of the tokens that follow, in nats, once all blocks are passed.

        Parameters
        ----------
        targets : Tensor, optional
            The token after each, [samples, length], int64; by default the samples' own next tokens.

        Returns
        -------
        Tensor
            float32, [samples, length] for given targets; otherwise [samples, length - 1], where element t is the loss
            of token t + 1.

        Raises
        ------
        ValueError
            If blocks are still to be passed.
        CalibrationError
            If the model does not predict the next token.
        """
        self._check_predicts()
        self._check_passed()
        with torch.no_grad():
            parts = self._targets if targets is None else targets.split([len(batch) for batch in self._batches])
            return torch.cat(
                [self._tail(index, *pair) for index, pair in enumerate(zip(self._hidden, parts, strict=True))]
            )

    def answers(self) -> Iterator[Tensor]:
        """What the model answers once all blocks are passed, batch by batch.

        Yields
        ------
        Tensor
            The logits of a batch of samples in their order: [samples, length, vocabulary], or [samples, classes].

        Raises
        ------
        ValueError
            If blocks are still to be passed.
        """
        self._check_passed()
        for index, hidden in enumerate(self._hidden):
            with torch.no_grad():
                yield self._answer(index, hidden)

    # -- backward ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def revisiting(self, spool: str | Path | None = None) -> Iterator[Callable[[int], None]]:
        """Pass all blocks, keep the inputs of each on disk, and go back to any of them while the context is open.

        Parameters
        ----------
        spool : path, optional
            Folder for the inputs, as for `backward`.

        Yields
        ------
        callable
            Takes the stream to the block with this index, where it can `measure`.
        """
        self.rewind()
        with tempfile.TemporaryDirectory(dir=spool) as name:
            folder = Path(name)
            self._pass_keeping(folder)

            def go(position: int) -> None:
                self._current = position
                self._hidden = torch.load(folder / str(position))

            yield go

    def _pass_keeping(self, folder: Path) -> None:
        """Pass all blocks, and keep the inputs of each in a folder, under its index."""
        while self._current < len(self._blocks):
            torch.save(self._hidden, folder / str(self._current))
            self.skip()

    def backward(
        self, spool: str | Path | None = None, draw: Callable[[Tensor], Tensor] | None = None
    ) -> Generator[tuple[Block, Iterator[int]]]:
        """Take the gradient of the mean loss of the predictions back through the blocks, in reverse order.

        A forward pass from the first block comes before; it keeps each block's inputs on disk. Then each block runs
        again with gradients. Whoever wants the gradients of a layer's outputs calls `LinearLayer.watch_outputs` before,
        with a callback that registers a hook on the outputs that require a gradient (those of the pass before do not).

        Parameters
        ----------
        spool : path, optional
            Folder for the inputs, blocks * [samples, length, hidden] in all, deleted at the end; by default the
            system's for temporary files.
        draw : callable, optional
            Gives the labels of a batch's predictions for their logits, as `Predictions.among` gives them, to int64 of
            the same shape but the last axis; by default they are the samples' next tokens.

        Yields
        ------
        block : Block
            Each block, the last one first; its weights are in memory.
        batches : iterator of int
            Each step takes the gradient of one more batch through the block, and gives the number of its samples. What
            is left of it is done when the next block is asked for. The stream itself is at its end all the while.

        Raises
        ------
        CalibrationError
            If the next tokens are the labels, but the model does not predict them.
        """
        if draw is None:
            self._check_predicts()
        self.rewind()
        with tempfile.TemporaryDirectory(dir=spool) as name:
            folder = Path(name)
            self._pass_keeping(folder)
            upstream = [self._tail_gradient(index, draw) for index in range(len(self._batches))]
            for position in reversed(range(len(self._blocks))):
                block = self._blocks[position]
                inputs = torch.load(folder / str(position))
                with block.loaded():
                    batches = self._back_through(block, inputs, upstream)
                    yield block, batches
                    for _ in batches:
                        pass

    def _back_through(self, block: Block, inputs: list[Tensor], upstream: list[Tensor]) -> Iterator[int]:
        """Replace the gradients of a block's outputs by those of its inputs, batch by batch."""
        for index, hidden in enumerate(inputs):
            upstream[index] = self._block_gradient(block, index, hidden, upstream[index])
            yield len(hidden)

    def _tail_gradient(self, index: int, draw: Callable[[Tensor], Tensor] | None) -> Tensor:
        """d mean loss / d outputs of the last block, for one batch."""
        with torch.enable_grad():
            hidden = self._hidden[index].detach().requires_grad_()
            logits = self._predictions.among(self._batches[index], self._answer(index, hidden))
            labels = self._targets[index] if draw is None else draw(logits.detach())
            mean = _losses(logits, labels).sum() / self._predictions.count(self._samples)
            (gradient,) = torch.autograd.grad(mean, hidden)
        return gradient

    def _block_gradient(self, block: Block, index: int, hidden: Tensor, upstream: Tensor) -> Tensor:
        """d mean loss / d inputs of a block, for one batch."""
        with torch.enable_grad():
            hidden = hidden.detach().requires_grad_()
            outputs = self._run(block, index, hidden)
            (gradient,) = torch.autograd.grad(outputs, hidden, upstream.to(outputs.device))
        return gradient

    # -- the model around its blocks -----------------------------------------------------------------------------------

    def _run(self, block: Block, index: int, hidden: Tensor) -> Tensor:
        """Outputs of a block for one batch; it must be loaded."""
        call = self._calls[block.name][index]
        device = next(block.module.parameters()).device
        outputs = block.module(hidden.to(device), *_moved(call.arguments, device), **_moved(call.keywords, device))
        return outputs[0] if isinstance(outputs, tuple) else outputs

    def _record(self) -> None:
        """Find the first block's inputs, and how the model calls each block."""
        first = self._blocks[0]
        genuine = first.module.forward

        def learn(hidden: Tensor, call: _Call) -> None:
            device = next(first.module.parameters()).device
            outputs = genuine(hidden.to(device), *_moved(call.arguments, device), **_moved(call.keywords, device))
            self._rest = outputs[1:] if isinstance(outputs, tuple) else None

        def record(block: Block, hidden: Tensor, call: _Call) -> Tensor:
            calls = self._calls[block.name]
            if block is first:
                if not self._first:
                    learn(hidden, call)
                self._first.append(hidden)
            elif hidden is not self._first[-1]:
                raise CalibrationError(
                    f"{type(self._model).__name__} changes the hidden states before {block.name}, "
                    "so its blocks cannot run one by one"
                )
            calls.append(call)
            return hidden

        with torch.no_grad(), first.loaded(), self._replaced(record):
            for batch in self._batches:
                # The base model ends before the head, whose logits nobody needs here.
                read(self._model.base_model, batch)

    @property
    def _targets(self) -> list[Tensor]:
        """The next token of each but the last, for each batch, [samples, length - 1]."""
        return [batch[:, 1:] for batch in self._batches]

    def _tail(self, index: int, hidden: Tensor, targets: Tensor) -> Tensor:
        """Losses of one batch, in the shape of the targets, from the outputs of the last block."""
        return _losses(self._answer(index, hidden)[:, : targets.shape[1]].float(), targets)

    def _answer(self, index: int, hidden: Tensor) -> Tensor:
        """Logits of one batch, from the outputs of the last block."""
        with self._replaced(lambda block, inputs, call: hidden):
            logits = read(self._model, self._batches[index]).logits
        assert isinstance(logits, Tensor)
        return logits

    @contextlib.contextmanager
    def _replaced(self, answer: Callable[[Block, Tensor, _Call], Tensor]) -> Iterator[None]:
        """Let a function answer in the place of each block, for as long as the context is open."""

        def stand_in(block: Block) -> Callable[..., Any]:
            def forward(*arguments: Any, **keywords: Any) -> Any:
                hidden = keywords.pop("hidden_states", None)
                if hidden is None:
                    hidden, *rest = arguments
                    arguments = tuple(rest)
                answered = answer(block, hidden, _Call(arguments, keywords))
                return answered if self._rest is None else (answered, *self._rest)

            return forward

        try:
            for block in self._blocks:
                block.module.forward = stand_in(block)
            yield
        finally:
            for block in self._blocks:
                vars(block.module).pop("forward", None)

    def _check_passed(self) -> None:
        if self._current < len(self._blocks):
            raise ValueError(f"what the model answers is known after its last block, not after {self._current}")

    def _check_predicts(self) -> None:
        if not self._model.can_generate():
            raise CalibrationError(f"{type(self._model).__name__} does not predict the next token, so it has no loss")


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihoods of targets, [samples, length] or [predictions], in their shape."""
    return cross_entropy(logits.movedim(-1, 1), targets.to(logits.device), reduction="none")


def _moved(values: Any, device: torch.device) -> Any:
    """The same values with their tensors on a device, through tuples, lists and dictionaries."""
    if isinstance(values, Tensor):
        return values.to(device)
    if isinstance(values, dict):
        return {key: _moved(value, device) for key, value in values.items()}
    if type(values) in (tuple, list):
        return type(values)(_moved(value, device) for value in values)
    return values
