"""What a pattern costs: the rise of the loss that the change of one layer's weights is expected to bring.

A layer's weights change by dW, its outputs by dW x. The loss is the divergence from the dense model's predictions. In
the dense model it has no slope, and its second derivative is the Fisher information: with g the gradient, in the
layer's outputs, of the negative log-likelihood of labels that the model itself draws, it rises per prediction by ::

    1/2 E[(g . dW x) ** 2]  ~  1/2 sum_o E[g_o ** 2] (dW E[x x^T] dW^T)_oo

Each token is a sample, as if g were independent from token to token; where there are more tokens than predictions, as
in an image, those of a prediction add up. The right side moreover takes g to be independent of x, and of the g of other
outputs (as K-FAC does, Martens & Grosse, arXiv 1503.05671). It costs next to nothing for one more change, and so tells
the patterns of a layer apart; its level is set by one change for which the left side is measured.

In a pruned model the divergence has a slope, E[g . dW x] with g its own gradient. Nothing is assumed for it, and how
the errors of all layers add up is in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from flexcim_flow.choice.divergence import Reference
from flexcim_flow.common.seeds import seeded
from flexcim_flow.model.blocks import LinearLayer
from flexcim_flow.passes.predictions import Predictions, batch_size, read
from flexcim_flow.passes.statistics import InputStatistics

__all__ = [
    "LossModel",
    "Sensitivity",
    "label_drawer",
    "layer_curvature",
    "loss_model",
    "mean_gradients",
    "sensing",
    "sensitivities",
]


@dataclass
class Sensitivity:
    """How the loss feels changes of one layer's outputs, all or a sample of them: sums over the tokens that reached the
    layer.

    Parameters
    ----------
    probe : Tensor
        The change of the weights that the loss's rise is measured along, [sampled outputs, inputs].
    squares : Tensor
        Sum of g_o ** 2, [sampled outputs], float32.
    outputs : int
        Outputs of the layer.
    sampled : Tensor, optional
        Indices of the outputs that are looked at, drawn at random, [sampled outputs], int64; None for all.
    along : float
        Sum of (g . probe x) ** 2 over the sampled outputs.
    apart : float
        Sum of (g_o (probe x)_o) ** 2, as if each output were pruned by itself.
    """

    probe: Tensor
    squares: Tensor
    outputs: int
    sampled: Tensor | None = None
    along: float = 0.0
    apart: float = 0.0

    @classmethod
    def of(cls, probe: Tensor, outputs: int | None = None, sampled: Tensor | None = None) -> Sensitivity:
        """Before any token."""
        return cls(probe.float(), torch.zeros(len(probe), device=probe.device), outputs or len(probe), sampled)

    def add(self, inputs: Tensor, gradient: Tensor) -> None:
        """Take inputs [..., inputs] and the gradient in all their outputs [..., outputs] into account."""
        gradient = gradient if self.sampled is None else gradient[..., self.sampled]
        self.squares += gradient.float().flatten(0, -2).square().sum(dim=0)
        moved = (inputs.float() @ self.probe.T).mul_(gradient)
        self.along += moved.sum(dim=-1).square().sum().item()
        if self.sampled is not None:
            self.apart += moved.square().sum().item()

    def scale(self, factor: float) -> None:
        """As if all gradients had been so many times as large."""
        self.squares *= factor**2
        self.along *= factor**2
        self.apart *= factor**2

    @property
    def share(self) -> float:
        """How many outputs each sampled one stands for."""
        return self.outputs / len(self.probe)

    @property
    def rise(self) -> float:
        """What `along` would be for all outputs; of a sample, its expectation.

        Products of two outputs are ``outputs * (outputs - 1)``, and a sample has fewer of them than its share of the
        outputs.
        """
        if self.sampled is None or len(self.probe) < 2:
            return self.along * self.share
        pairs = self.share * (self.outputs - 1) / (len(self.probe) - 1)
        # By the chance of the draw products of different outputs may come to less than nothing, but a few outputs that
        # are felt alone are felt among others too.
        return max(self.along, self.share * self.apart + pairs * (self.along - self.apart))


@dataclass(frozen=True, eq=False)
class LossModel:
    """The loss to second order in the changes of single units' weights.

    Parameters
    ----------
    curvature : float64 [units, patterns, patterns]
        Half the second derivative along what two patterns change in a unit's dense weights, nats per prediction.
    """

    curvature: NDArray[np.float64]

    @property
    def costs(self) -> NDArray[np.float64]:
        """Rise of the loss if one unit of the dense model is pruned, [units, patterns]."""
        costs: NDArray[np.float64] = np.einsum("upp->up", self.curvature)
        return costs

    def around(
        self, columns: NDArray[np.int64], slope: NDArray[np.float64], caution: float = 1.0
    ) -> NDArray[np.float64]:
        """Rise of the loss if one unit of a pruned model gets another pattern, [units, patterns].

        Parameters
        ----------
        columns : int64 [units]
            The present patterns, which cost nothing.
        slope : float64 [units, patterns]
            First-order rise along each pattern's weights, in the pruned model.
        caution : float
            Factor of the second order: above 1 it keeps to small changes, as the damping of Levenberg and Marquardt.
        """
        rows = np.arange(len(columns))
        own = self.costs
        apart = own - 2 * self.curvature[rows, :, columns] + own[rows, columns][:, None]
        rise: NDArray[np.float64] = slope - slope[rows, columns][:, None] + caution * apart
        return rise


def loss_model(
    units: Sequence[Sequence[LinearLayer]],
    treated: Mapping[str, Tensor],
    dense: Mapping[str, InputStatistics],
    felt: Mapping[str, Sensitivity],
    predicted: int,
) -> LossModel:
    """What patterns do to the loss of a dense model.

    Parameters
    ----------
    units : sequence of sequences of LinearLayer
        The layers of each unit, which get a pattern together; their weights are dense.
    treated : mapping
        Weights under each pattern by the layer's name, [patterns, outputs, inputs].
    dense : mapping
        Statistics of the layers' inputs, with second moments.
    felt : mapping
        The layers' sensitivities.
    predicted : int
        Predictions that these were measured on.
    """
    parts = [
        sum(
            layer_curvature(treated[layer.name] - layer.weight, dense[layer.name], felt[layer.name], predicted)
            for layer in unit
        )
        for unit in units
    ]
    return LossModel(np.stack(parts))


def layer_curvature(changes: Tensor, seen: InputStatistics, felt: Sensitivity, predicted: int) -> NDArray[np.float64]:
    """Half the second derivative of the loss along each two changes of a layer's weights, nats per prediction.

    Parameters
    ----------
    changes : Tensor
        dW at the outputs that the sensitivity looks at, [changes, sampled outputs, inputs].
    seen : InputStatistics
        The layer's inputs, with second moments.
    felt : Sensitivity
        How the loss feels its outputs.
    predicted : int
        Predictions that the sensitivity was measured on.

    Returns
    -------
    float64 [changes, changes]
        Zero for a layer that no token reaches.
    """
    if not seen.tokens or not felt.squares.any():
        return np.zeros((len(changes), len(changes)))
    moments = seen.moments.to(changes.device)

    def products(some: Tensor, others: Tensor) -> Tensor:
        weighted = (some.float() @ moments) * (felt.share * felt.squares[:, None])
        return (weighted.flatten(1) @ others.float().flatten(1).T).double() / (2 * predicted)

    # A model that was always sure of its labels would feel nothing along the probe.
    expected = products(felt.probe[None], felt.probe[None]).item()
    level = felt.rise / (2 * predicted) / expected if expected > 0 else 1.0
    found: NDArray[np.float64] = (level * products(changes, changes)).cpu().numpy()
    return (found + found.T) / 2


def sensitivities(
    model: PreTrainedModel,
    layers: Sequence[LinearLayer],
    probes: Mapping[str, Tensor],
    samples: Tensor,
    seed: int,
    mask: int | None = None,
) -> tuple[dict[str, Sensitivity], int]:
    """Measure how a dense model's loss feels changes of its layers' outputs.

    Parameters
    ----------
    model : PreTrainedModel
        The model.
    layers : sequence of LinearLayer
        The layers.
    probes : mapping
        A change of the weights by the layer's name, [outputs, inputs].
    samples : Tensor
        [samples, length], int64, or images [samples, channels, height, width], float32.
    seed : int
        Seed of the labels that the model draws.
    mask : int, optional
        The token that stands where the model is to predict, as in `Predictions`.

    Returns
    -------
    sensitivities : dict
        By the layer's name.
    predicted : int
        Predictions.
    """
    draw = label_drawer(seed)
    predictions = Predictions.of(model, mask)
    with _frozen(model), sensing(layers, probes) as felt:
        for batch in samples.split(batch_size(samples)):
            logits = predictions.among(batch, read(model, batch).logits)
            labels = draw(logits.detach()).to(logits.device)
            cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="sum").backward()
    return felt, predictions.count(samples)


@contextlib.contextmanager
def sensing(
    layers: Sequence[LinearLayer], probes: Mapping[str, Tensor], sampled: Mapping[str, Tensor] | None = None
) -> Iterator[dict[str, Sensitivity]]:
    """Measure the sensitivities of some layers by the backward passes that are made while the context is open.

    Parameters
    ----------
    layers : sequence of LinearLayer
        The layers.
    probes : mapping
        A change of the weights by the layer's name, [sampled outputs, inputs].
    sampled : mapping, optional
        Outputs that are looked at by the layer's name, int64; by default all.
    """
    few = sampled or {}
    felt = {layer.name: Sensitivity.of(probes[layer.name], layer.shape[0], few.get(layer.name)) for layer in layers}
    with _watching(layers, lambda layer, inputs, gradient: felt[layer.name].add(inputs, gradient)):
        yield felt


def mean_gradients(
    model: PreTrainedModel, layers: Sequence[LinearLayer], dense: Reference
) -> tuple[dict[str, Tensor], float]:
    """Gradient, in the weights of each layer, of the mean divergence from the dense model's predictions.

    Returns
    -------
    gradients : dict
        By the layer's name, [outputs, inputs], float32, nats per prediction.
    divergence : float
        That divergence, nats per prediction.
    """
    found = {layer.name: torch.zeros(layer.shape, device=layer.weight.device) for layer in layers}

    def add(layer: LinearLayer, inputs: Tensor, gradient: Tensor) -> None:
        found[layer.name].addmm_(gradient.float().flatten(0, -2).T, inputs.float().flatten(0, -2))

    with _frozen(model), _watching(layers, add):
        nats = 0.0
        for part in dense.split():
            divergence = part.from_logits(read(model, part.samples).logits)
            (divergence / len(dense.tokens)).backward()
            nats += divergence.item()
    return found, nats / len(dense.tokens)


def label_drawer(seed: int) -> Callable[[Tensor], Tensor]:
    """Draws labels from a model's own predictions, batch after batch: logits [..., vocabulary] or [..., classes] to
    int64 [...]."""
    generator = seeded(seed)

    def draw(logits: Tensor) -> Tensor:
        shares = logits.softmax(dim=-1).flatten(0, -2).cpu()
        return torch.multinomial(shares, 1, generator=generator).view(logits.shape[:-1])

    return draw


@contextlib.contextmanager
def _watching(layers: Sequence[LinearLayer], told: Callable[[LinearLayer, Tensor, Tensor], None]) -> Iterator[None]:
    """Tell a function a layer's inputs and the gradient in its outputs, whenever a backward pass comes by."""
    with contextlib.ExitStack() as stack:
        for layer in layers:
            watched = _Watched(layer, told)
            stack.callback(layer.watch(watched.see_inputs).remove)
            stack.callback(layer.watch_outputs(watched.see_outputs).remove)
        yield


@dataclass
class _Watched:
    """One layer's inputs, kept until the gradient in their outputs comes by."""

    layer: LinearLayer
    told: Callable[[LinearLayer, Tensor, Tensor], None]
    inputs: Tensor | None = None

    def see_inputs(self, inputs: Tensor) -> None:
        self.inputs = inputs.detach()

    def see_outputs(self, outputs: Tensor) -> None:
        inputs, self.inputs = self.inputs, None
        assert inputs is not None, "a layer's inputs come before its outputs"
        if outputs.requires_grad:
            outputs.register_hook(lambda gradient: self.told(self.layer, inputs, gradient.detach()))


@contextlib.contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """No parameter gets a gradient of its own while the context is open, but what passes the model does."""
    wanting = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with contextlib.ExitStack() as stack:
        embeddings = model.get_input_embeddings()
        # With all parameters frozen, the graph begins at the embeddings, which saves a third of the backward pass.
        start = embeddings.register_forward_hook(lambda module, arguments, output: output.detach().requires_grad_())
        stack.callback(start.remove)
        for parameter in wanting:
            parameter.requires_grad_(False)
            stack.callback(parameter.requires_grad_, True)
        stack.enter_context(torch.enable_grad())
        yield
