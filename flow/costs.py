"""What a pattern costs: the rise of the loss that the change of one layer's weights is expected to bring.

A layer's weights change by dW. Along a sequence s the log-likelihood's gradient in the weights is G_s, the sum of its
tokens' outer products of output gradient and input. To second order the loss of a token rises by ::

    mean_s <dW, G_s> / tokens  +  1/2 mean_s <dW, G_s> ** 2 / tokens

In the second term, with labels that the model itself draws, the expectation is the Fisher information along dW, which
is the second derivative of the divergence from the model: nothing is assumed about outputs or tokens being independent,
as the usual factorised forms do. The first term vanishes in the dense model. In a pruned one it is the slope of the
divergence from the dense model, which needs no labels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from flow.blocks import LinearLayer
from flow.divergence import Reference
from flow.options import BATCH_TOKENS

__all__ = [
    "COST_LENGTH",
    "LossModel",
    "directional_derivatives",
    "label_drawer",
    "loss_model",
    "projecting",
    "sequences_of",
    "shrunk_moments",
    "to_second_order",
]

COST_LENGTH = 128
"""Tokens of a sequence: each is one sample of the Fisher information, so that shorter ones give more samples."""


_CHUNK = 1 << 26
"""Numbers of gradients in weights that are held at once."""


@dataclass(frozen=True, eq=False)
class LossModel:
    """The loss around a model as it is, to second order in the changes of its units' weights.

    Parameters
    ----------
    slope : float64 [units, patterns]
        First-order rise if a unit gets a pattern, nats per token.
    curvature : float64 [units, patterns, units, patterns]
        Half the second derivative along each two changes, nats per token; its diagonal is what a change costs by
        itself, the rest is how the errors of two units add up or cancel.
    """

    slope: NDArray[np.float64]
    curvature: NDArray[np.float64]

    @property
    def costs(self) -> NDArray[np.float64]:
        """Rise of the loss if one unit alone is changed, [units, patterns]."""
        own: NDArray[np.float64] = np.einsum("upup->up", self.curvature)
        return self.slope + own

    def restricted(self, columns: Sequence[int]) -> LossModel:
        """The same for some of the patterns only."""
        some = np.asarray(columns)
        return LossModel(self.slope[:, some], self.curvature[:, some][:, :, :, some])

    def rise(self, columns: NDArray[np.int64]) -> float:
        """Rise of the loss under a pattern for each unit."""
        rows = np.arange(len(columns))
        pairs = self.curvature[rows[:, None], columns[:, None], rows, columns]
        return float(self.slope[rows, columns].sum() + pairs.sum())


def loss_model(
    model: PreTrainedModel,
    units: Sequence[Sequence[LinearLayer]],
    changes: Mapping[str, Tensor],
    samples: Tensor,
    seed: int,
    reference: Reference | None = None,
) -> LossModel:
    """Measure what changes of the weights would do to the loss.

    Parameters
    ----------
    model : PreTrainedModel
        The model, dense or pruned already.
    units : sequence of sequences of LinearLayer
        The layers of each unit, which get a pattern together.
    changes : mapping
        dW from the present weights under each pattern by the layer's name, [patterns, outputs, inputs].
    samples : Tensor
        [samples, length], int64; see `sequences_of`.
    seed : int
        Seed of the labels that the model draws.
    reference : Reference, optional
        What the dense model predicts on the same sequences: the loss is then the divergence from it, which has a slope
        in a pruned model. By default the loss is the divergence from the model as it is.
    """
    layers = [layer for unit in units for layer in unit]
    sizes = [len(unit) for unit in units]
    drawn, tokens = directional_derivatives(model, layers, changes, samples, seed)
    if reference is None:
        return to_second_order(drawn, tokens, sizes)
    away, _ = directional_derivatives(model, layers, changes, samples, reference)
    return to_second_order(drawn, tokens, sizes, away)


def to_second_order(drawn: Tensor, tokens: int, sizes: Sequence[int], away: Tensor | None = None) -> LossModel:
    """The loss model of some derivatives.

    Parameters
    ----------
    drawn : Tensor
        <dW, G_s> for labels that the model draws, [sequences, layers, patterns], float64: the curvature.
    tokens : int
        Predicted tokens of a sequence.
    sizes : sequence of int
        Layers of each unit, which follow each other.
    away : Tensor, optional
        The same for the divergence from the dense model: the slope. By default there is none, as in the dense model.
    """
    starts = np.cumsum([0, *sizes])

    def by_unit(along: Tensor) -> Tensor:
        return torch.stack([along[:, start:stop].sum(dim=1) for start, stop in pairwise(starts)], dim=1)

    curvature = shrunk_moments(by_unit(drawn)) / (2 * tokens)
    slope = torch.zeros(curvature.shape[:2], dtype=drawn.dtype) if away is None else by_unit(away).mean(dim=0)
    return LossModel((slope / tokens).numpy(), curvature.numpy())


def shrunk_moments(drawn: Tensor) -> Tensor:
    """E[d d^T] over sequences of [sequences, units, patterns], [units, patterns, units, patterns].

    A pair of units has hardly more in common than the chance of some hundred sequences gives it, and who seeks the
    least finds the chance. So all that pairs have in common is shrunk by one factor, the share of its squares that is
    no chance (Ledoit & Wolf, J. Multivariate Analysis 88, 2004, with the diagonal as the target).
    """
    sequences, units, patterns = drawn.shape
    flat = drawn.flatten(1)
    moments = flat.T @ flat / sequences
    scale = moments.diagonal().sqrt().clamp(min=torch.finfo(flat.dtype).tiny)
    unlike = ~torch.eye(units, dtype=torch.bool).repeat_interleave(patterns, 0).repeat_interleave(patterns, 1)
    found = (moments / scale / scale[:, None])[unlike].square().sum()
    squares = (flat / scale).square()
    chance = ((squares.T @ squares / sequences)[unlike].sum() - found) / sequences
    genuine = (1 - chance / found).clamp(min=0) if found > 0 else 1.0
    return torch.where(unlike, genuine * moments, moments).view(units, patterns, units, patterns)


def sequences_of(samples: Tensor) -> Tensor:
    """Samples [samples, length] in sequences of at most `COST_LENGTH` tokens, [sequences, length]; the rest is left."""
    length = min(COST_LENGTH, samples.shape[1])
    return samples[:, : samples.shape[1] // length * length].reshape(-1, length)


def directional_derivatives(
    model: PreTrainedModel,
    layers: Sequence[LinearLayer],
    changes: Mapping[str, Tensor],
    samples: Tensor,
    labels: int | Reference,
) -> tuple[Tensor, int]:
    """<dW, G_s>: how fast the summed loss of each sequence grows along each change of each layer.

    Parameters
    ----------
    model : PreTrainedModel
        The model.
    layers : sequence of LinearLayer
        The layers.
    changes : mapping
        dW by the layer's name, [patterns, outputs, inputs].
    samples : Tensor
        [samples, length], int64; see `sequences_of`.
    labels : int or Reference
        Seed of labels that the model draws from its own predictions, whose negative log-likelihood is the loss; or
        predictions of the same sequences, the divergence from which is the loss.

    Returns
    -------
    derivatives : Tensor
        [sequences, layers, patterns], float64.
    tokens : int
        Predicted tokens of a sequence.
    """
    sequences = sequences_of(samples)
    size = max(1, BATCH_TOKENS // sequences.shape[1])
    loss = _drawn_loss(labels) if isinstance(labels, int) else _divergence_loss(labels.split(size))
    rows = []
    with _frozen(model), projecting(layers, changes) as take:
        for batch in sequences.split(size):
            loss(model(input_ids=batch, use_cache=False).logits[:, :-1].float()).backward()
            rows.append(take(len(batch)))
    return torch.cat(rows), sequences.shape[1] - 1


def _drawn_loss(seed: int) -> Callable[[Tensor], Tensor]:
    """Negative log-likelihood of labels that the model draws, summed over each batch that comes by."""
    draw = label_drawer(seed)

    def loss(logits: Tensor) -> Tensor:
        drawn = draw(logits.detach())
        return cross_entropy(logits.flatten(0, 1), drawn.flatten().to(logits.device), reduction="sum")

    return loss


def _divergence_loss(references: Iterator[Reference]) -> Callable[[Tensor], Tensor]:
    """Divergence from predictions of the same batches, summed over each that comes by."""
    return lambda logits: next(references).from_logits(logits)


def label_drawer(seed: int) -> Callable[[Tensor], Tensor]:
    """Draws labels from a model's own predictions, batch after batch: logits [..., vocabulary] to int64 [...]."""
    generator = torch.Generator().manual_seed(seed)

    def draw(logits: Tensor) -> Tensor:
        shares = logits.softmax(dim=-1).flatten(0, -2).cpu()
        return torch.multinomial(shares, 1, generator=generator).view(logits.shape[:-1])

    return draw


@dataclass
class _Projection:
    """Projects the gradient in a layer's weights onto its changes, as it comes by."""

    changes: Tensor  # [patterns, weights]
    inputs: Tensor | None = None
    found: Tensor | None = field(default=None)

    def see_inputs(self, inputs: Tensor) -> None:
        self.inputs = inputs.detach()

    def see_outputs(self, outputs: Tensor) -> None:
        if outputs.requires_grad:
            outputs.register_hook(self.see_gradient)

    def see_gradient(self, gradient: Tensor) -> None:
        assert self.inputs is not None, "a layer's inputs come before its gradients"
        inputs, gradient = self.inputs, gradient.detach()
        if inputs.ndim == 2:  # tokens of several sequences in one matrix, as experts get them
            inputs, gradient = inputs[None], gradient[None]
        gradient, inputs = gradient.flatten(1, -2), inputs.flatten(1, -2)
        # The gradients in the weights, [sequences, outputs, inputs], are taken for some sequences at a time.
        some = max(1, _CHUNK // self.changes.shape[1])
        parts = [
            (its.mT @ own).flatten(1).float() @ self.changes.T
            for its, own in zip(gradient.split(some), inputs.split(some), strict=True)
        ]
        self.found = torch.cat(parts).double().cpu()

    def take(self, sequences: int) -> Tensor:
        """[sequences, patterns] of the batch that just passed, zeros where the layer saw none of it."""
        found = self.found
        self.inputs = self.found = None
        taken = torch.zeros(sequences, len(self.changes), dtype=torch.float64)
        if found is not None:
            taken[: len(found)] = found
        return taken


@contextlib.contextmanager
def projecting(layers: Sequence[LinearLayer], changes: Mapping[str, Tensor]) -> Iterator[Callable[[int], Tensor]]:
    """Project the gradients in some layers' weights onto their changes while the context is open.

    Parameters
    ----------
    layers : sequence of LinearLayer
        The layers.
    changes : mapping
        dW by the layer's name, [patterns, outputs, inputs].

    Yields
    ------
    callable
        To be called after each backward pass with the number of its sequences; gives <dW, G_s>, [sequences, layers,
        patterns], float64.
    """
    projections = [_Projection(changes[layer.name].flatten(1).float()) for layer in layers]
    with contextlib.ExitStack() as stack:
        for layer, projection in zip(layers, projections, strict=True):
            stack.callback(layer.watch(projection.see_inputs).remove)
            stack.callback(layer.watch_outputs(projection.see_outputs).remove)
        yield lambda sequences: torch.stack([projection.take(sequences) for projection in projections], dim=1)


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
