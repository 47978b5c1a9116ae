"""What is measured of each linear layer's inputs while calibration samples pass it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flow.blocks import LinearLayer

__all__ = ["InputStatistics", "observe"]


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
        self.squares += flat.square().sum(dim=0, dtype=torch.float64).to(self.squares.device)


@contextlib.contextmanager
def observe(layers: Iterable[LinearLayer]) -> Iterator[dict[str, InputStatistics]]:
    """Measure the inputs of layers for as long as the context is open.

    Yields
    ------
    dict
        Statistics by the layer's name, filled by each forward pass.
    """
    statistics: dict[str, InputStatistics] = {}
    with contextlib.ExitStack() as handles:
        for layer in layers:
            of_layer = statistics[layer.name] = InputStatistics(layer.shape[1])
            handles.callback(layer.watch(of_layer.add).remove)
        yield statistics
