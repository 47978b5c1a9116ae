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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, repeat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from flow.blocks import LinearLayer
from flow.divergence import Reference
from flow.options import BATCH_TOKENS

__all__ = ["COST_LENGTH", "LossModel", "directional_derivatives", "loss_model", "sequences_of", "shrunk_moments"]

COST_LENGTH = 128
"""Tokens of a sequence: each is one sample of the Fisher information, so that shorter ones give more samples."""


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

    def trusted(self, share: float) -> LossModel:
        """The same with only a share of the slope, which holds near the model as it is."""
        return LossModel(share * self.slope, self.curvature)

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
    starts = np.cumsum([0, *(len(unit) for unit in units)])

    def along(of: Reference | None) -> tuple[Tensor, int]:
        found, tokens = directional_derivatives(model, layers, changes, samples, seed if of is None else of)
        return torch.stack([found[:, start:stop].sum(dim=1) for start, stop in pairwise(starts)], dim=1), tokens

    drawn, tokens = along(None)
    curvature = shrunk_moments(drawn) / (2 * tokens)
    slope = torch.zeros(drawn.shape[1:], dtype=drawn.dtype) if reference is None else along(reference)[0].mean(dim=0)
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
    """The samples cut into sequences of at most `COST_LENGTH` tokens, [sequences, length]."""
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
    references = repeat(None) if isinstance(labels, int) else labels.split(size)
    generator = torch.Generator().manual_seed(labels) if isinstance(labels, int) else None
    rows = []
    with _projected(model, layers, changes) as projected:
        for batch, reference in zip(sequences.split(size), references, strict=False):
            logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()
            if reference is None:
                drawn = torch.multinomial(logits.detach().softmax(dim=-1).flatten(0, 1).cpu(), 1, generator=generator)
                cross_entropy(logits.flatten(0, 1), drawn.flatten().to(logits.device), reduction="sum").backward()
            else:
                reference.from_logits(logits).backward()
            rows.append(torch.stack([projected[layer.name].take(len(batch)) for layer in layers], dim=1))
    return torch.cat(rows), sequences.shape[1] - 1


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
        weights = gradient.flatten(1, -2).mT @ inputs.flatten(1, -2)
        self.found = (weights.flatten(1).float() @ self.changes.T).double().cpu()

    def take(self, sequences: int) -> Tensor:
        """[sequences, patterns] of the batch that just passed, zeros where the layer saw none of it."""
        found = self.found
        self.inputs = self.found = None
        taken = torch.zeros(sequences, len(self.changes), dtype=torch.float64)
        if found is not None:
            taken[: len(found)] = found
        return taken


@contextlib.contextmanager
def _projected(
    model: PreTrainedModel, layers: Sequence[LinearLayer], changes: Mapping[str, Tensor]
) -> Iterator[dict[str, _Projection]]:
    """Watch the layers' inputs and gradients while the context is open; no parameter gets a gradient of its own."""
    projections = {layer.name: _Projection(changes[layer.name].flatten(1).float()) for layer in layers}
    wanting = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.watch(projections[layer.name].see_inputs).remove)
            stack.callback(layer.watch_outputs(projections[layer.name].see_outputs).remove)
        embeddings = model.get_input_embeddings()
        # With all parameters frozen, the graph begins at the embeddings, which saves a third of the backward pass.
        start = embeddings.register_forward_hook(lambda module, arguments, output: output.detach().requires_grad_())
        stack.callback(start.remove)
        for parameter in wanting:
            parameter.requires_grad_(False)
            stack.callback(parameter.requires_grad_, True)
        stack.enter_context(torch.enable_grad())
        yield projections
