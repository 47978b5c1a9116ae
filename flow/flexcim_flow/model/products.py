"""Where weights meet inputs: watch or replace the matrix products of chosen weights while a module runs.

A hook on ``nn.Linear`` sees nothing of a weight that is used without calling its module (``dt_proj`` of Mamba) or that
has no module of its own (an expert in a fused 3-D parameter). So the products themselves are watched: while the
*owner*, the module whose forward uses the weights, runs, each matrix product with a watched weight is seen, whoever
computes it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

__all__ = ["Handle", "Product", "Transform", "Watcher", "attach"]

Watcher: TypeAlias = Callable[[Tensor], None]
"""Called with the inputs [..., inputs] or the outputs [..., outputs] of each product."""

Transform: TypeAlias = Callable[[Tensor], Tensor]
"""Takes the place of a product: inputs [..., inputs] to inputs @ weight.T [..., outputs], without a bias."""


@dataclass(eq=False)
class Product:
    """What is to happen at each product of one weight.

    Parameters
    ----------
    weight : callable
        Gives the weight, [outputs, inputs] or a transposed view of it; asked each time its owner starts, as a weight
        that is read from disk moves.
    inputs, outputs : callable, optional
        Told about the product's inputs and outputs.
    replacement : callable, optional
        Computes the product instead.
    """

    weight: Callable[[], Tensor]
    inputs: Watcher | None = None
    outputs: Watcher | None = None
    replacement: Transform | None = None


class Handle:
    """Ends what `attach` began."""

    def __init__(self, owner: _Owner, product: Product) -> None:
        self._owner = owner
        self._product = product

    def remove(self) -> None:
        """End it; a second call does nothing."""
        self._owner.drop(self._product)


def attach(owner: nn.Module, product: Product) -> Handle:
    """Let a product take effect while a module runs, until its handle is removed."""
    watched = _OWNERS.get(owner)
    if watched is None:
        watched = _OWNERS[owner] = _Owner()
    watched.add(owner, product)
    return Handle(watched, product)


class _Owner:
    """The products of one module, and the hooks that switch the watch on while it runs."""

    def __init__(self) -> None:
        self._products: list[Product] = []
        self._hooks: list[Any] = []
        self._running: list[_Watch] = []

    def add(self, owner: nn.Module, product: Product) -> None:
        if not self._products:
            self._hooks = [
                owner.register_forward_pre_hook(self._enter),
                owner.register_forward_hook(self._leave, always_call=True),
            ]
        self._products.append(product)

    def drop(self, product: Product) -> None:
        if product in self._products:
            self._products.remove(product)
            if not self._products:
                for hook in self._hooks:
                    hook.remove()

    def _enter(self, module: nn.Module, arguments: Any) -> None:
        watch = _Watch(self._products)
        watch.__enter__()
        self._running.append(watch)

    def _leave(self, module: nn.Module, arguments: Any, outputs: Any) -> None:
        self._running.pop().__exit__(None, None, None)


_OWNERS: weakref.WeakKeyDictionary[nn.Module, _Owner] = weakref.WeakKeyDictionary()


class _Watch(TorchFunctionMode):
    """Looks at each matrix product for one of the weights."""

    def __init__(self, products: Sequence[Product]) -> None:
        super().__init__()
        self._products: dict[tuple[int, int], list[Product]] = {}
        for product in products:
            self._products.setdefault(_place(product.weight()), []).append(product)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        operands = _operands(func, args, kwargs)
        if operands is not None:
            left, right, bias = operands
            if products := self._products.get(_place(right)):
                return _run(products, left, lambda: func(*args, **kwargs), bias, turned=False)
            if func is not linear and (products := self._products.get(_place(left))):
                # weight @ inputs: each column is one input vector.
                return _run(products, right.mT, lambda: func(*args, **kwargs), bias, turned=True)
        return func(*args, **kwargs)


_MATMUL = frozenset(
    {torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__, Tensor.__rmatmul__},
)


def _operands(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Left and right factor and bias of a matrix product, None for any other function."""
    if func is linear:
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        return args[0] if args else kwargs["input"], weight, args[2] if len(args) > 2 else kwargs.get("bias")
    if func is torch.addmm and len(args) == 3:
        return args[1], args[2], args[0]
    if func in _MATMUL and len(args) == 2 and all(isinstance(factor, Tensor) and factor.ndim >= 2 for factor in args):
        left, right = reversed(args) if func is Tensor.__rmatmul__ else args
        return left, right, None
    return None


def _place(tensor: Tensor) -> tuple[int, int]:
    """Where a weight lies in memory; views of it, such as its transpose, lie in the same place."""
    return tensor.data_ptr(), tensor.numel()


def _run(
    products: Sequence[Product], inputs: Tensor, compute: Callable[[], Tensor], bias: Tensor | None, *, turned: bool
) -> Tensor:
    """One product, told to those who watch it; ``turned`` outputs are [..., outputs, vectors]."""
    for product in products:
        if product.inputs is not None:
            product.inputs(inputs)
    replacement = next((product.replacement for product in products if product.replacement is not None), None)
    if replacement is None:
        outputs = compute()
        outputs = outputs.mT if turned else outputs
    else:
        outputs = replacement(inputs)
        outputs = outputs if bias is None else outputs + bias
    for product in products:
        if product.outputs is not None:
            product.outputs(outputs)
    # What was shown is what is used, so that a gradient passes it.
    return outputs.mT if turned else outputs
