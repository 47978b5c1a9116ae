"""Statistics of what enters a layer: norms for the scores, second moments for the updates of the kept weights, and
magnitudes for the scales of quantised activations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flow.blocks import LinearLayer
from flow.magnitudes import Magnitudes

__all__ = ["InputStatistics", "observe", "observe_magnitudes"]


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

    def add(self, activations: Tensor) -> None:
        """Take inputs [..., inputs] into account."""
        flat = activations.detach().flatten(0, -2).float()
        if not len(flat):
            return
        self.tokens += len(flat)
        if self.products is None:
            self.squares += flat.square().sum(dim=0, dtype=torch.float64).to(self.squares.device)
            return
        products = flat.T @ flat
        self.products += products.to(self.products.device)
        self.squares += products.diagonal().to(self.squares)


@contextlib.contextmanager
def observe(layers: Iterable[LinearLayer], *, moments: bool = False) -> Iterator[dict[str, InputStatistics]]:
    """Measure the inputs of layers for as long as the context is open.

    Yields
    ------
    dict
        Statistics by the layer's name, filled by each forward pass.
    """
    statistics: dict[str, InputStatistics] = {}
    with contextlib.ExitStack() as watches:
        for layer in layers:
            of_layer = statistics[layer.name] = InputStatistics(layer.shape[1], with_moments=moments)
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
