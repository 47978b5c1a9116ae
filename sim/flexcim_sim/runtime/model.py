"""A pruned language model whose block linear layers run on a backend, and the text that it writes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
)

from flexcim.errors import FlexCiMError
from flexcim.packed.folder import read_pruned
from flexcim.packed.model import PackedModel
from flexcim.quiet import quiet
from flexcim_sim.runtime.backends import Backend

__all__ = ["BackendLinear", "PrunedModel", "RuntimeModelError", "load_pruned"]


class RuntimeModelError(FlexCiMError):
    """A model that cannot run on a backend; the message names the folder or the layer."""


class BackendLinear(nn.Module):
    """A linear layer whose products come from a backend; scales and bias are applied here, in float32.

    Parameters
    ----------
    name : str
        The layer's name for the backend.
    backend : Backend
        The backend.
    weight_scales : Tensor
        [outputs], float32.
    bias : Tensor or None
        [outputs].
    activation_bits : int
        A.
    activation_scale : float or None
        Scale of all activations; None for one of each token, from its largest magnitude.
    """

    def __init__(
        self,
        name: str,
        backend: Backend,
        weight_scales: Tensor,
        bias: Tensor | None,
        *,
        activation_bits: int,
        activation_scale: float | None,
    ) -> None:
        super().__init__()
        self.name, self.backend = name, backend
        self.weight_scales, self.bias = weight_scales, bias
        self.limit = (1 << (activation_bits - 1)) - 1
        self.activation_scale = activation_scale

    def forward(self, activations: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs], in the dtype of the activations."""
        values = activations.detach().float()
        if self.activation_scale is None:
            scale = values.abs().amax(dim=-1, keepdim=True) / self.limit
            scale = torch.where(scale > 0, scale, 1.0)
        else:
            scale = torch.tensor(self.activation_scale)
        integers = (values / scale).round().clamp(-self.limit, self.limit).to(torch.int8)
        sums = self.backend.multiply(self.name, np.ascontiguousarray(integers.flatten(0, -2).numpy()))
        result = torch.from_numpy(sums).view(*activations.shape[:-1], -1).float() * scale * self.weight_scales
        if self.bias is not None:
            result = result + self.bias.float()
        return result.to(activations.dtype)


@dataclass(frozen=True, eq=False)
class PrunedModel:
    """A model whose layers are still those of PyTorch.

    Parameters
    ----------
    model : Module
        The model with its embeddings, head and so on.
    tokenizer : callable
        Its tokenizer.
    packed : PackedModel
        Its block linear layers.
    """

    model: nn.Module
    tokenizer: Callable
    packed: PackedModel

    def run_on(self, backend: Backend) -> None:
        """Let the block linear layers run on a backend.

        Raises
        ------
        RuntimeModelError
            If a packed layer is no layer of the model.
        """
        for layer in self.packed.layers:
            parent_name, _, own_name = layer.name.rpartition(".")
            try:
                parent = self.model.get_submodule(parent_name)
                module = getattr(parent, own_name)
            except AttributeError:
                raise RuntimeModelError(f"layer {layer.name!r} of the packed model is no module of the model") from None
            self._check_shape(layer.name, module, layer.tiling.outputs, layer.tiling.inputs)
            linear = BackendLinear(
                layer.name,
                backend,
                torch.from_numpy(layer.weight_scales.copy()),
                module.bias,
                activation_bits=self.packed.config.activation_bits,
                activation_scale=layer.activation_scale,
            )
            setattr(parent, own_name, linear)

    @staticmethod
    def _check_shape(name: str, module: nn.Module, outputs: int, inputs: int) -> None:
        if isinstance(module, BackendLinear):
            return
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor) or sorted(weight.shape) != sorted((outputs, inputs)):
            raise RuntimeModelError(
                f"layer {name!r} is packed as {outputs} x {inputs}, but the model has {type(module).__name__} "
                f"{list(weight.shape) if isinstance(weight, Tensor) else 'without a weight'} there"
            )

    def prompt_ids(self, prompt: str, tokens: int) -> Tensor:
        """The tokens of a prompt that is to be gone on from, [1, tokens], int64.

        Parameters
        ----------
        prompt : str
            The text to go on from.
        tokens : int
            How many tokens are to follow it.

        Raises
        ------
        RuntimeModelError
            If the prompt is no text or has no token, or more than the model's context has room for with those that
            follow.
        """
        _check_text(prompt)
        ids: Tensor = self.tokenizer(prompt, return_tensors="pt")["input_ids"]
        if not ids.numel():
            raise RuntimeModelError("the prompt has no token")
        context = getattr(self.model.config, "max_position_embeddings", None)
        if context is not None and ids.numel() + tokens > context:
            raise RuntimeModelError(
                f"the prompt's {ids.numel()} tokens and the {tokens} to write are {ids.numel() + tokens} together, "
                f"but the model's context is {context}"
            )
        return ids

    def generate(self, prompt: str, tokens: int, shown: Callable[[int], None] = lambda token: None) -> list[int]:
        """The most likely tokens after a prompt, one after the other.

        Parameters
        ----------
        prompt : str
            The text to go on from.
        tokens : int
            How many; fewer if the model ends its text before.
        shown : callable, optional
            Called with each token as it comes.

        Raises
        ------
        RuntimeModelError
            As `prompt_ids` does.
        """
        ids = self.prompt_ids(prompt, tokens)
        written: list[int] = []

        def put(token: int) -> None:
            written.append(token)
            shown(token)

        with torch.no_grad(), quiet():
            state = self.model.generate(  # type: ignore[operator]  # what transformers adds to the module
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                do_sample=False,
                num_beams=1,
                pad_token_id=0,
                streamer=_Streamer(put),
            )
        assert state[0, ids.shape[1] :].tolist() == written
        return written

    def text(self, tokens: list[int]) -> str:
        """Tokens as text."""
        return str(self.tokenizer.decode(tokens))  # type: ignore[attr-defined]


def _check_text(prompt: str) -> None:
    """RuntimeModelError if a prompt cannot be UTF-8; what Python makes of a command line's other bytes is no text."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise RuntimeModelError(
            f"the prompt is no UTF-8 text: character {error.start + 1} of it cannot be read"
        ) from None


class _Streamer:
    """What transformers' generation hands tokens to: first the prompt, then each new one."""

    def __init__(self, put: Callable[[int], None]) -> None:
        self._put, self._prompt = put, True

    def put(self, value: Tensor) -> None:
        if not self._prompt:
            for token in value.flatten().tolist():
                self._put(token)
        self._prompt = False

    def end(self) -> None:
        """Nothing is kept back."""


def load_pruned(folder: str | os.PathLike[str]) -> PrunedModel:
    """Read what ``flexcim prune`` wrote: the checkpoint and the packed model; nothing is ever downloaded.

    Raises
    ------
    RuntimeModelError
        If the folder has no checkpoint of a causal language model with a tokenizer.
    PackedError
        If it has no packed model.
    """
    root = Path(folder)
    packed = read_pruned(root)
    checkpoint = root / "checkpoint"
    if not (checkpoint / "config.json").is_file():
        raise RuntimeModelError(
            f"{checkpoint}: holds no checkpoint, which flexcim prune writes beside the packed model"
        )
    with quiet():
        try:
            _check_writes(checkpoint, AutoConfig.from_pretrained(checkpoint, local_files_only=True))
            model = AutoModelForCausalLM.from_pretrained(checkpoint, local_files_only=True, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
        except RuntimeModelError:  # a ValueError as well
            raise
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise RuntimeModelError(f"{checkpoint}: is no causal language model with a tokenizer ({reason})") from None
    return PrunedModel(model.eval(), tokenizer, packed)


def _check_writes(checkpoint: Path, config: PreTrainedConfig) -> None:
    """RuntimeModelError unless the checkpoint is one of a causal language model.

    transformers would load a masked one as its causal sibling, which was never trained.
    """
    found = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), ())
    causal = {kind.__name__ for kind in (found if isinstance(found, tuple) else (found,))}
    architectures = config.architectures or causal
    if causal.isdisjoint(architectures):
        name = ", ".join(architectures) or config.model_type
        raise RuntimeModelError(f"{checkpoint}: {name} does not predict the next token, so it cannot write text")
