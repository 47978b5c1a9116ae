"""What the pruner gives back: the pruned model, the plan, and each layer in the hardware's integers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.packed.tiling import LayerTiling
from flexcim.quiet import quiet
from flexcim_flow.choice.budgets import SparsityBudget
from flexcim_flow.choice.evidence import Selection
from flexcim_flow.choice.problem import Choice
from flexcim_flow.choice.selector import SELECTORS
from flexcim_flow.layer.masks import kept_weights
from flexcim_flow.layer.quantization import QuantizedLinear, quantize_weights
from flexcim_flow.layer.treatment import Numerics, Treatment
from flexcim_flow.measure.evaluation import Evaluation
from flexcim_flow.model.blocks import Block, LinearLayer
from flexcim_flow.model.checkpoint import Checkpoint
from flexcim_flow.passes.stream import BlockStream
from flexcim_flow.prune.request import PruneRequest

__all__ = ["Evaluations", "PruneResult", "PrunedLayer", "overshoot", "quantized", "quantized_dense"]

_OVERSHOOT = 0.01
"""Share of the weights that a method may drop beyond what was asked for before it is said: layers are of many sizes, so
that hardly any choice meets a sparsity to the weight."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PrunedLayer:
    """One linear layer after pruning.

    Parameters
    ----------
    name : str
        Its path in the model.
    block : Block
        Its block.
    layer : LinearLayer
        The layer itself.
    choice : Choice
        Its pattern, or its block's, and why.
    tiling : LayerTiling
        How it lies on the macro: tiles, groups, and why.
    zeros : int
        Its weights that are zero, counted.
    activation_scale : Tensor or None
        Scale of all its activations, [] float32; None where each token has its own.
    """

    name: str
    block: Block
    layer: LinearLayer
    choice: Choice
    tiling: LayerTiling
    zeros: int
    activation_scale: Tensor | None

    @property
    def pattern(self) -> Pattern:
        """Its pattern."""
        return self.choice.pattern

    @property
    def sparsity(self) -> float:
        """Share of its weights that are zero."""
        return self.zeros / self.size

    @property
    def size(self) -> int:
        """Its weights, counted."""
        return self.tiling.outputs * self.tiling.inputs

    def integers(self) -> tuple[Tensor, Tensor]:
        """Its quantised weights, [outputs, inputs], int8, and the scale of each output, [outputs], float32.

        They are made from the pruned weights each time: those of a large model do not fit into memory together.
        """
        with self.block.loaded():
            return quantize_weights(self.layer.weight.cpu(), self.tiling.config.weight_bits)

    def quantized(self) -> QuantizedLinear:
        """The layer's product in the hardware's arithmetic; the bias stays in the host model."""
        return QuantizedLinear(
            *self.integers(),
            activation_bits=self.tiling.config.activation_bits,
            activation_scale=self.activation_scale,
        )


@dataclass(frozen=True)
class Evaluations:
    """The same text under the dense model and the pruned one, each also in the hardware's integers.

    From ``dense`` to ``dense_quantized`` is the error of quantisation alone, from ``dense`` to ``pruned`` that of
    pruning alone, from there to ``recovered`` what the recovery brings back, if there was one, and ``quantized``, what
    comes out of all that in integers, has both errors.
    """

    dense: Evaluation
    dense_quantized: Evaluation
    pruned: Evaluation
    quantized: Evaluation
    recovered: Evaluation | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class PruneResult:
    """A pruned model, and how it came about.

    Parameters
    ----------
    checkpoint : Checkpoint
        The pruned model and its tokenizer.
    request : PruneRequest
        What was asked for.
    numerics : dict
        How the numbers of each layer went, by the layer's name.
    samples : Tensor
        The calibration samples, [samples, length], int64, or images [samples, channels, height, width].
    selection : Selection or None
        The choice for each layer or block, and what was tried; None where a plan names the patterns.
    recovery : tuple of float
        Loss of each step of the recovery before it was taken, nats per token; empty where none was asked for.
    layers : tuple of PrunedLayer
        All linear layers of the blocks, in the model's order.
    evaluations : Evaluations or None
        None without a text to evaluate on.
    """

    checkpoint: Checkpoint
    request: PruneRequest
    numerics: dict[str, Numerics]
    samples: Tensor
    selection: Selection | None
    recovery: tuple[float, ...]
    layers: tuple[PrunedLayer, ...]
    evaluations: Evaluations | None

    @property
    def config(self) -> MacroConfig:
        """The macro that it was pruned for."""
        return self.request.config

    @property
    def treatment(self) -> Treatment:
        """How masks were chosen and kept weights updated."""
        return self.request.treatment

    @property
    def target(self) -> float | None:
        """The sparsity that was asked for, if it was a sparsity."""
        return self.request.budget.sparsity if isinstance(self.request.budget, SparsityBudget) else None

    @property
    def weights(self) -> int:
        """All the layers' weights, counted; what else the model has stays dense."""
        return sum(layer.size for layer in self.layers)

    @property
    def zeros(self) -> int:
        """Those of them that are zero."""
        return sum(layer.zeros for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """Share of all the layers' weights that are zero."""
        return self.zeros / self.weights

    @property
    def chosen_sparsity(self) -> float:
        """Share that the patterns drop; a model that had zeros before may have more."""
        kept = sum(kept_weights(layer.tiling.outputs, layer.tiling.inputs, layer.pattern) for layer in self.layers)
        return 1 - kept / self.weights

    @property
    def parameters(self) -> int:
        """All parameters of the model, counted: those of the layers, and convolutions, scans, norms, embeddings."""
        return sum(parameter.numel() for parameter in self.checkpoint.model.parameters())

    def layer(self, name: str) -> PrunedLayer:
        """The layer of this name.

        Raises
        ------
        KeyError
            If there is none.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"there is no layer {name!r} among the pruned ones")

    def activations(self, names: Sequence[str], vectors: int) -> dict[str, NDArray[np.int8]]:
        """What the hardware gets when the pruned, quantised model reads the first calibration tokens.

        Parameters
        ----------
        names : sequence of str
            Layers.
        vectors : int
            How many tokens.

        Returns
        -------
        dict
            By the layer's name, int8 [vectors, inputs].

        Raises
        ------
        KeyError
            If no layer has one of the names.
        ValueError
            If the samples have fewer tokens.
        """
        if not 1 <= vectors <= self.samples.numel():
            raise ValueError(
                f"vectors must be between 1 and the {self.samples.numel()} calibration tokens, not {vectors}"
            )
        seen: dict[str, list[Tensor]] = {self.layer(name).name: [] for name in names}

        def watch(name: str, module: QuantizedLinear) -> None:
            def record(module: QuantizedLinear, arguments: tuple[Tensor, ...]) -> None:
                integers, _ = module.quantize_activations(arguments[0])
                seen[name].append(integers.flatten(0, -2))

            if name in seen:
                module.register_forward_pre_hook(record)

        samples = -(-vectors // self.samples.shape[1])
        with quiet():
            stream = BlockStream(self.checkpoint.model, self.checkpoint.blocks, self.samples[:samples])
            for block in self.checkpoint.blocks:
                with block.loaded(), quantized((layer for layer in self.layers if layer.block is block), watch):
                    stream.skip()
        return {name: torch.cat(parts)[:vectors].cpu().numpy() for name, parts in seen.items()}


def overshoot(method: str, target: float, chosen: float) -> str | None:
    """What to say where a method's patterns drop more than a hundredth of the weights beyond what was asked for.

    Parameters
    ----------
    method : str
        Its name.
    target, chosen : float
        The sparsity that was asked for, and that of the patterns.

    Returns
    -------
    str or None
        A sentence; None where the method is near enough.
    """
    if chosen - target <= _OVERSHOOT:
        return None
    why = SELECTORS[method].overshoot
    return f"{method} drops {chosen:.1%} of the weights, more than the {target:.1%} asked for, as {why}"


@contextlib.contextmanager
def quantized(
    layers: Iterable[PrunedLayer], watch: Callable[[str, QuantizedLinear], None] | None = None
) -> Iterator[None]:
    """Let layers compute their products in the hardware's arithmetic for as long as the context is open.

    Parameters
    ----------
    layers : iterable of PrunedLayer
        The layers; their blocks must be loaded.
    watch : callable, optional
        Is shown each layer's name and module before anything runs.
    """
    with contextlib.ExitStack() as handles:
        for layer in layers:
            module = layer.quantized().to(layer.layer.weight.device)
            if watch is not None:
                watch(layer.name, module)
            handles.callback(layer.layer.substitute(module).remove)
        yield


@contextlib.contextmanager
def quantized_dense(block: Block, config: MacroConfig, scales: Mapping[str, Tensor]) -> Iterator[None]:
    """The same for the layers of a block that is not pruned.

    Parameters
    ----------
    block : Block
        The block, loaded.
    config : MacroConfig
        The widths of the integers.
    scales : mapping
        Scales of the layers' activations by name, [] float32; by default each token has its own.
    """
    with contextlib.ExitStack() as handles:
        for layer in block.layers:
            module = QuantizedLinear(
                *quantize_weights(layer.weight, config.weight_bits),
                activation_bits=config.activation_bits,
                activation_scale=scales.get(layer.name),
            )
            handles.callback(layer.substitute(module.to(layer.weight.device)).remove)
        yield
