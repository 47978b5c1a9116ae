"""Model walking: the stack of blocks of a model, and the linear layers inside each block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from flexcim.errors import FlexCiMError
from flexcim_flow.model.products import Handle, Product, Transform, Watcher, attach

__all__ = ["Block", "LinearLayer", "ModelError", "WeightStore", "find_blocks"]


class ModelError(FlexCiMError):
    """A model that the pruner cannot walk; the message is one sentence that names the module."""


@dataclass(frozen=True, eq=False)
class LinearLayer:
    """A linear layer that can be pruned; all that the pruner knows about how a layer stores its weights is here.

    Parameters
    ----------
    name : str
        Its path in the model, such as ``model.layers.0.mlp.up_proj``; an expert's ends in its number, such as
        ``model.layers.0.mlp.experts.down_proj.3``.
    module : nn.Module
        The module that holds the weights.
    parameter : str
        Name of the parameter in the module.
    expert : int, optional
        Which slice of a 3-D parameter it is.
    transposed : bool
        Whether the weights are stored [inputs, outputs].
    owner : nn.Module, optional
        The module whose forward multiplies by the weights, wherever in it; by default ``module``.
    """

    name: str
    module: nn.Module
    parameter: str = "weight"
    expert: int | None = None
    transposed: bool = False
    owner: nn.Module | None = None

    @property
    def weight(self) -> Tensor:
        """The weights, [outputs, inputs], a view; writing to them changes the model."""
        weight = self.stored.detach()
        if self.expert is not None:
            weight = weight[self.expert]
        return weight.mT if self.transposed else weight

    @property
    def stored(self) -> nn.Parameter:
        """The parameter that holds the weights, perhaps with those of other layers."""
        parameter = getattr(self.module, self.parameter)
        assert isinstance(parameter, nn.Parameter)
        return parameter

    @property
    def bias(self) -> Tensor | None:
        """The bias, [outputs], if there is one."""
        bias = getattr(self.module, "bias" if self.expert is None else f"{self.parameter}_bias", None)
        if bias is None:
            return None
        return bias.detach() if self.expert is None else bias.detach()[self.expert]

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs)."""
        outputs, inputs = self.weight.shape
        return outputs, inputs

    def watch(self, callback: Watcher) -> Handle:
        """Have a callback called with the inputs [..., inputs] of each forward, until the handle is removed.

        An expert sees the tokens that are routed to it, in one matrix [tokens, inputs], and nothing if there are none.
        """
        return self._attach(inputs=callback)

    def watch_outputs(self, callback: Watcher) -> Handle:
        """The same with the outputs [..., outputs]; the callback may register a hook for their gradient."""
        return self._attach(outputs=callback)

    def substitute(self, product: Transform) -> Handle:
        """Let a function compute inputs @ weight.T, until the handle is removed; the bias is added to it as before."""
        return self._attach(replacement=product)

    def _attach(self, **actions: Any) -> Handle:
        return attach(self.owner or self.module, Product(lambda: self.weight, **actions))


class WeightStore(Protocol):
    """Where the weights of blocks are while they are not in memory."""

    def load(self, block: Block) -> None:
        """Put the block's weights into its module."""

    def release(self, block: Block) -> None:
        """Drop them from memory; what was written to them since `load` is lost unless it was stored."""


@dataclass(frozen=True, eq=False)
class Block:
    """One block of the stack.

    Parameters
    ----------
    name : str
        Its path in the model, such as ``model.layers.0``.
    module : nn.Module
        The module.
    layers : tuple of LinearLayer
        Its linear layers in the order of the module tree; there may be none.
    store : WeightStore, optional
        Where its weights come from; None if they are in memory all the time.
    """

    name: str
    module: nn.Module
    layers: tuple[LinearLayer, ...]
    store: WeightStore | None = None

    def loaded(self) -> AbstractContextManager[None]:
        """Have the block's weights in memory for as long as the context is open; it may be opened inside itself."""
        return contextlib.nullcontext() if self.store is None or self._is_loaded() else self._load(self.store)

    def _is_loaded(self) -> bool:
        return not any(parameter.is_meta for parameter in self.module.parameters())

    @contextlib.contextmanager
    def _load(self, store: WeightStore) -> Iterator[None]:
        store.load(self)
        try:
            yield
        finally:
            store.release(self)


def find_blocks(model: nn.Module) -> tuple[Block, ...]:
    """Find the stack of blocks: the ``ModuleList`` with the most parameters, whose children must share a class.

    Counting parameters, not children, keeps a list inside a block, such as the experts of a mixture, from being taken
    for the stack.

    Raises
    ------
    ModelError
        If there is no such list, its children are of several classes, no block has a linear layer, or two layers share
        their weights.
    """
    kind = type(model).__name__
    stacks = [
        (name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module)
    ]
    if not stacks:
        raise ModelError(f"{kind} has no list of blocks to prune one after the other")
    # Of equals, max keeps the first, which is the outermost.
    stack_name, stack = max(stacks, key=lambda item: sum(parameter.numel() for parameter in item[1].parameters()))
    classes = sorted({type(module).__name__ for module in stack})
    if len(classes) > 1:
        raise ModelError(f"the blocks in {stack_name} of {kind} must be of one class, not {', '.join(classes)}")
    blocks = []
    for index, module in enumerate(stack):
        name = f"{stack_name}.{index}"
        blocks.append(Block(name, module, _linear_layers(name, module)))
    if not any(block.layers for block in blocks):
        raise ModelError(f"the blocks in {stack_name} of {kind} have no linear layers to prune")
    _check_unshared(blocks)
    return tuple(blocks)


def _linear_layers(name: str, block: nn.Module) -> tuple[LinearLayer, ...]:
    return tuple(
        layer for path, module in block.named_modules() for layer in _layers_of(f"{name}.{path}", module, block)
    )


def _layers_of(name: str, module: nn.Module, block: nn.Module) -> Iterator[LinearLayer]:
    """The linear layers that a module is by itself."""
    if isinstance(module, nn.Linear):
        yield LinearLayer(name, module, owner=block)
    elif isinstance(module, Conv1D):
        yield LinearLayer(name, module, transposed=True, owner=block)
    elif hasattr(module, "is_transposed") and hasattr(module, "has_gate"):
        # transformers marks modules of fused experts so; their matrices are all the 3-D parameters they have.
        for parameter, stored in module.named_parameters(recurse=False):
            if stored.ndim == 3:
                for expert in range(len(stored)):
                    transposed = bool(module.is_transposed)
                    yield LinearLayer(f"{name}.{parameter}.{expert}", module, parameter, expert, transposed, block)


def _check_unshared(blocks: list[Block]) -> None:
    """Raise ModelError if two layers are one and the same matrix, which would be pruned twice."""
    owners: dict[int, str] = {}
    for block in blocks:
        for layer in block.layers:
            if layer.expert:
                continue  # the experts of one parameter lie side by side; the first one stands for all
            owner = owners.setdefault(id(layer.stored), layer.name)
            if owner != layer.name:
                raise ModelError(f"{layer.name} shares its weights with {owner}, so they cannot be pruned apart")
