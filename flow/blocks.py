"""Model walking: the stack of blocks of a causal language model, and the linear layers inside each block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from flexcim.errors import FlexCiMError

__all__ = ["Block", "LinearLayer", "ModelError", "find_blocks"]


class ModelError(FlexCiMError):
    """A model that the pruner cannot walk; the message is one sentence that names the module."""


@dataclass(frozen=True, eq=False)
class LinearLayer:
    """A linear layer that can be pruned; all that the pruner knows about how a layer stores its weights is here.

    Parameters
    ----------
    name : str
        Its path in the model, such as ``model.layers.0.mlp.up_proj``.
    module : nn.Linear
        The module.
    """

    name: str
    module: nn.Linear

    @property
    def weight(self) -> Tensor:
        """The weights, [outputs, inputs]; writing to them changes the model."""
        return self.module.weight.detach()

    @property
    def bias(self) -> Tensor | None:
        """The bias, [outputs], if there is one."""
        return None if self.module.bias is None else self.module.bias.detach()

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs)."""
        outputs, inputs = self.weight.shape
        return outputs, inputs

    def watch(self, callback: Callable[[Tensor], None]) -> RemovableHandle:
        """Have a callback called with the inputs [..., inputs] of each forward, until the handle is removed."""
        return self.module.register_forward_pre_hook(lambda module, arguments: callback(arguments[0]))

    def watch_outputs(self, callback: Callable[[Tensor], None]) -> RemovableHandle:
        """The same with the outputs [..., outputs]; the callback may register a hook for their gradient."""
        return self.module.register_forward_hook(lambda module, arguments, outputs: callback(outputs))


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
    """

    name: str
    module: nn.Module
    layers: tuple[LinearLayer, ...]


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
        LinearLayer(f"{name}.{path}", module) for path, module in block.named_modules() if isinstance(module, nn.Linear)
    )


def _check_unshared(blocks: list[Block]) -> None:
    """Raise ModelError if two layers are one and the same matrix, which would be pruned twice."""
    owners: dict[int, str] = {}
    for block in blocks:
        for layer in block.layers:
            owner = owners.setdefault(id(layer.module.weight), layer.name)
            if owner != layer.name:
                raise ModelError(f"{layer.name} shares its weights with {owner}, so they cannot be pruned apart")
