"""Statistics of what enters a layer: norms for the scores, second moments for the updates of the kept weights, and
magnitudes for the scales of quantised activations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flexcim_flow.model.blocks import LinearLayer
from flexcim_flow.passes.magnitudes import Magnitudes

__all__ = ["InputStatistics", "observe", "observe_magnitudes", "product_sums", "with_same_inputs"]

_PANELS = 4
"""Panels that a symmetric product is made of: with four, 10 of 16 parts are multiplied, and the panels are still wide
enough for a fast product."""


def product_sums(activations: Tensor) -> Tensor:
    """X^T X of inputs [..., inputs], float32 [inputs, inputs].

    It is symmetric, so of each panel of rows only what is right of the diagonal is multiplied, and then mirrored.
    """
    flat = activations.detach().flatten(0, -2).float()
    inputs = flat.shape[1]
    sums = flat.new_empty(inputs, inputs)
    width = max(1, -(-inputs // _PANELS))
    for start in range(0, inputs, width):
        panel, later = slice(start, start + width), slice(start + width, None)
        sums[panel, start:] = flat[:, panel].T @ flat[:, start:]
        sums[later, panel] = sums[panel, later].T
    return sums


class _Remembering:
    """`product_sums` that are not taken again for layers that get the same inputs in a row, such as the query, key and
    value projections of an attention."""

    def __init__(self) -> None:
        self._inputs: Tensor | None = None
        self._version = 0
        self._sums = torch.empty(0)

    def __call__(self, activations: Tensor) -> Tensor:
        if activations is not self._inputs or activations._version != self._version:
            self._inputs, self._version = activations, activations._version
            self._sums = product_sums(activations)
        return self._sums

    def forget(self) -> None:
        """Let go of what was remembered."""
        self._inputs, self._sums = None, torch.empty(0)


@dataclass
class InputStatistics:
    """What was seen of one layer's inputs.

    Parameters
    ----------
    inputs : int
        Input features of the layer.
    with_moments : bool
        Whether to collect the second moments, which take inputs ** 2 numbers and as many products for each token.
    tokens : int
        Tokens that were seen.
    multiply : callable
        What takes the sums of products of a batch of inputs.

    Attributes
    ----------
    squares : Tensor
        Sum of squares of each input feature, [inputs], float64.
    products : Tensor or None
        X^T X, the sum of x_i * x_j over the tokens, [inputs, inputs], float32; None unless asked for. Each batch is
        multiplied in float32 and added once, so the rounding grows with the number of batches, not of tokens.
    """

    inputs: int
    with_moments: bool = False
    tokens: int = 0
    multiply: Callable[[Tensor], Tensor] = product_sums
    squares: Tensor = field(init=False)
    products: Tensor | None = field(init=False)

    def __post_init__(self) -> None:
        self.squares = torch.zeros(self.inputs, dtype=torch.float64)
        self.products = torch.zeros(self.inputs, self.inputs) if self.with_moments else None

    @property
    def norms(self) -> Tensor:
        """L2 norm of each input feature over all tokens, [inputs], float32."""
        return self.squares.sqrt().float()

    @property
    def moments(self) -> Tensor:
        """E[x x^T] over all tokens, [inputs, inputs], float32.

        Raises
        ------
        ValueError
            If they were not collected, or no token was seen.
        """
        if self.products is None or not self.tokens:
            raise ValueError("second moments need statistics that collect them, and at least one token")
        return self.products / self.tokens

    def equals(self, other: InputStatistics) -> bool:
        """Whether the same was seen, to the bit."""
        if self.tokens != other.tokens or not torch.equal(self.squares, other.squares):
            return False
        if self.products is None or other.products is None:
            return self.products is other.products
        return torch.equal(self.products, other.products)

    def add(self, activations: Tensor) -> None:
        """Take inputs [..., inputs] into account."""
        tokens = activations.numel() // self.inputs
        if not tokens:
            return
        self.tokens += tokens
        if self.products is None:
            flat = activations.detach().flatten(0, -2).float()
            self.squares += flat.square().sum(dim=0, dtype=torch.float64).to(self.squares.device)
            return
        products = self.multiply(activations)
        self.products += products.to(self.products.device)
        self.squares += products.diagonal().to(self.squares)


def with_same_inputs(names: Iterable[str], seen: Mapping[str, InputStatistics]) -> list[list[str]]:
    """Layers by what was seen of their inputs, which is the same to the bit for those that get the same inputs, such as
    the query, key and value projections of an attention.

    Parameters
    ----------
    names : iterable of str
        The layers.
    seen : mapping
        Statistics of their inputs, by the layer's name.
    """
    groups: list[list[str]] = []
    for name in names:
        for group in groups:
            if seen[name].equals(seen[group[0]]):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


@contextlib.contextmanager
def observe(layers: Iterable[LinearLayer], *, moments: bool = False) -> Iterator[dict[str, InputStatistics]]:
    """Measure the inputs of layers for as long as the context is open.

    Yields
    ------
    dict
        Statistics by the layer's name, filled by each forward pass.
    """
    statistics: dict[str, InputStatistics] = {}
    multiply = _Remembering()
    with contextlib.ExitStack() as watches:
        watches.callback(multiply.forget)
        for layer in layers:
            of_layer = InputStatistics(layer.shape[1], with_moments=moments, multiply=multiply)
            statistics[layer.name] = of_layer
            watches.callback(layer.watch(of_layer.add).remove)
        yield statistics


@contextlib.contextmanager
def observe_magnitudes(layers: Iterable[LinearLayer]) -> Iterator[dict[str, Magnitudes]]:
    """The same for the magnitudes of the inputs alone."""
    magnitudes: dict[str, Magnitudes] = {}
    with contextlib.ExitStack() as watches:
        for layer in layers:
            of_layer = magnitudes[layer.name] = Magnitudes()
            watches.callback(layer.watch(of_layer.add).remove)
        yield magnitudes
