"""Where a layer's integer product is computed: by PyTorch, by the golden accelerator, or by the simulated RTL."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray

from flexcim.accelerator.instructions import AcceleratorProgram, RunTiles
from flexcim.compiler.layer import CompiledLayer, compile_layer
from flexcim.compiler.model import LayerShape, layer_cells, layer_shapes
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.errors import FlexCiMError
from flexcim.packed.cells import unpack_layer
from flexcim.packed.layer import PackedLayer
from flexcim.packed.model import PackedModel
from flexcim_sim.golden.accelerator import GoldenAccelerator, WordStream
from flexcim_sim.runtime.driver import SimulatedAccelerator

__all__ = [
    "Backend",
    "BackendError",
    "CheckedBackend",
    "GoldenBackend",
    "PhasedBackend",
    "TorchBackend",
    "VerilatorBackend",
]


class BackendError(FlexCiMError):
    """A backend that cannot compute a layer, or computed it wrong; the message names the layer."""


class Backend(ABC):
    """Computes products of the layers of a packed model."""

    @abstractmethod
    def multiply(self, name: str, activations: NDArray[np.int8]) -> NDArray[np.int32]:
        """The sums of a layer.

        Parameters
        ----------
        name : str
            The layer.
        activations : int8 [vectors, inputs]
            The vectors, in the symmetric range of A bits.

        Returns
        -------
        int32 [vectors, outputs]
            The sums, exact.
        """


class TorchBackend(Backend):
    """Decodes the packed layers, and multiplies their matrices with PyTorch.

    Parameters
    ----------
    model : PackedModel
        The model.
    """

    def __init__(self, model: PackedModel) -> None:
        # float64 holds every sum of 32 bits, in any order of summation.
        self._weights = {
            layer.name: torch.from_numpy(unpack_layer(layer.tiling, layer.weights, layer.offsets)).double()
            for layer in model.layers
        }

    def multiply(self, name: str, activations: NDArray[np.int8]) -> NDArray[np.int32]:
        sums = torch.from_numpy(activations).double() @ self._weights[name].T
        result: NDArray[np.int32] = sums.to(torch.int32).numpy()
        return result


class _ProgramBackend(Backend):
    """Compiles each layer for each number of vectors, and has its programs carried out.

    The weights of all layers stream, since layers follow each other with different numbers of vectors.
    """

    def __init__(self, model: PackedModel, config: AcceleratorConfig) -> None:
        self.config = config
        self._layers: dict[str, PackedLayer] = {layer.name: layer for layer in model.layers}
        self._shapes: dict[str, LayerShape] = {shape.name: shape for shape in layer_shapes(model, config)}
        self._images: dict[tuple[str, int, tuple[int, ...]], NDArray[np.uint8]] = {}

    def multiply(self, name: str, activations: NDArray[np.int8]) -> NDArray[np.int32]:
        shape = self._shapes[name]
        layer = compile_layer(
            self.config, shape.outputs, shape.inputs, shape.pattern, len(activations), rest=shape.rest
        )
        return layer.outputs(self._execute(layer, self._weights(name, layer), layer.activation_image(activations)))

    def _weights(self, name: str, layer: CompiledLayer) -> NDArray[np.uint8]:
        """The layer's weight image, which many passes share."""
        key = name, layer.tiling.groups, layer.schedule.tiles
        if key not in self._images:
            self._images[key] = layer.weight_image(*layer_cells(self._layers[name], layer))
        return self._images[key]

    @abstractmethod
    def _execute(
        self, layer: CompiledLayer, weights: NDArray[np.uint8], activations: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """The bytes of the results of all programs of a layer."""


class GoldenBackend(_ProgramBackend):
    """Runs the layers' programs on the golden accelerator.

    Parameters
    ----------
    model : PackedModel
        The model.
    config : AcceleratorConfig
        The accelerator.
    """

    def __init__(self, model: PackedModel, config: AcceleratorConfig) -> None:
        super().__init__(model, config)
        self._golden = GoldenAccelerator(config)

    def _execute(
        self, layer: CompiledLayer, weights: NDArray[np.uint8], activations: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        streams = WordStream(weights), WordStream(activations)
        words = [program.words(self.config.macro) for program in layer.programs]
        parts = [self._golden.execute(one, *streams).results for one in words]
        if self._golden.error:
            raise BackendError(f"the golden accelerator refused a program: {self._golden.error.name.lower()}")
        return np.concatenate(parts)


class VerilatorBackend(_ProgramBackend):
    """Runs the layers' programs on simulated RTL, and holds its cycles against the cycle model.

    Parameters
    ----------
    model : PackedModel
        The model.
    accelerator : SimulatedAccelerator
        The RTL.
    """

    def __init__(self, model: PackedModel, accelerator: SimulatedAccelerator) -> None:
        super().__init__(model, accelerator.config)
        self._accelerator = accelerator

    def _execute(
        self, layer: CompiledLayer, weights: NDArray[np.uint8], activations: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        before, limit = self._accelerator.cycles, 2 * layer.cycles.cycles + 1000
        parts = []
        for program in layer.programs:
            weight_words, activation_words = _words(program)
            parts.append(
                self._accelerator.execute(
                    program.words(self.config.macro), weights[:weight_words], activations[:activation_words], limit
                )
            )
            weights, activations = weights[weight_words:], activations[activation_words:]
        taken = self._accelerator.cycles - before
        if taken != layer.cycles.cycles:
            raise BackendError(
                f"the RTL took {taken} cycles for a layer, but the cycle model says {layer.cycles.cycles}"
            )
        return np.concatenate(parts)


def _words(program: AcceleratorProgram) -> tuple[int, int]:
    """Words of weights and of activations that a program takes."""
    weights = activations = 0
    for one in program.carried_out():
        if isinstance(one, RunTiles):
            activations += one.words
        else:
            weights += one.words
    return weights, activations


class CheckedBackend(Backend):
    """Compares each product of a backend with another one's.

    Parameters
    ----------
    backend, reference : Backend
        Both have the same layers.

    Attributes
    ----------
    products, sums, macs : int
        Products and sums that were compared, and multiplications that a dense layer needs for them.
    """

    def __init__(self, backend: Backend, reference: Backend) -> None:
        self._backend, self._reference = backend, reference
        self.products = self.sums = self.macs = 0

    def multiply(self, name: str, activations: NDArray[np.int8]) -> NDArray[np.int32]:
        found, wanted = (one.multiply(name, activations) for one in (self._backend, self._reference))
        wrong = found != wanted
        if wrong.any():
            vector, output = (int(index[0]) for index in np.nonzero(wrong))
            raise BackendError(
                f"layer {name!r}: output {output} of vector {vector} is {found[vector, output]}, "
                f"but must be {wanted[vector, output]}"
            )
        self.products += 1
        self.sums += found.size
        self.macs += found.size * activations.shape[1]
        return found


class PhasedBackend(Backend):
    """Two backends, one for the prefill and one for decode, such as those of the two plans of a nested model.

    Parameters
    ----------
    prefill, decode : Backend
        Both have the same layers.

    Attributes
    ----------
    decoding : bool
        Whether it is decode's turn; to be set when the first token is there.
    """

    def __init__(self, prefill: Backend, decode: Backend) -> None:
        self._prefill, self._decode = prefill, decode
        self.decoding = False

    def multiply(self, name: str, activations: NDArray[np.int8]) -> NDArray[np.int32]:
        return (self._decode if self.decoding else self._prefill).multiply(name, activations)
