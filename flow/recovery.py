"""Recovery: a short fine-tuning in which what is pruned stays pruned."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from flexcim.errors import FlexCiMError
from flow.blocks import LinearLayer
from flow.options import BATCH_TOKENS
from flow.text import draw_samples

__all__ = ["RECOVERY_RATE", "RecoveryError", "recover"]

RECOVERY_RATE = 5e-4
"""Peak learning rate of AdamW."""

_WARM_UP = 0.1
"""Share of the steps in which the rate rises; then it falls as a cosine does."""

_LARGEST_GRADIENT = 1.0
"""Norm that the gradient of a step is cut to, so that one odd sample does no harm."""


class RecoveryError(FlexCiMError):
    """A recovery that cannot be carried out; the message is one sentence."""


def recover(
    model: PreTrainedModel,
    layers: Sequence[LinearLayer],
    tokens: Tensor,
    *,
    steps: int,
    length: int,
    seed: int,
    rate: float = RECOVERY_RATE,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[float, ...]:
    """Train a pruned causal language model for some steps on a text, in place, with its zeros held.

    All parameters learn, those outside the blocks as well; of the pruned layers only the weights that are not zero.
    The whole model, its gradients and AdamW's two moments are in memory.

    Parameters
    ----------
    model : PreTrainedModel
        The model, in float32; in evaluation mode afterwards.
    layers : sequence of LinearLayer
        Its pruned layers.
    tokens : Tensor
        The text, [tokens], int64: that of the calibration, never the one that is measured on.
    steps : int
        Steps, each with about `flow.options.BATCH_TOKENS` tokens.
    length : int
        Tokens of a sample.
    seed : int
        Seed of the samples' places. The same seed gives the same weights on the same machine.
    rate : float
        Peak learning rate.
    progress : callable, optional
        Told the steps that are done and the last one's loss in nats per token.

    Returns
    -------
    tuple of float
        The loss of each step, before it was taken.

    Raises
    ------
    RecoveryError
        If there is no step to take, or the training leaves the finite numbers.
    """
    if steps < 1:
        raise RecoveryError(f"recovery steps must be at least 1, not {steps}")
    size = max(1, BATCH_TOKENS // length)
    batches = draw_samples(tokens, steps * size, length + 1, seed).split(size)
    masks = [layer.weight != 0 for layer in layers]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate_factor(step, steps))
    losses = []
    model.train()
    try:
        for step, batch in enumerate(batches, start=1):
            logits = model(input_ids=batch[:, :-1], use_cache=False).logits.float()
            loss = cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), _LARGEST_GRADIENT)
            optimizer.step()
            scheduler.step()
            # What a pruned weight would have learned is dropped; AdamW's moments of it do no harm.
            for layer, mask in zip(layers, masks, strict=True):
                layer.weight.mul_(mask)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise RecoveryError(
                    f"step {step} of the recovery has a loss of {losses[-1]}; its rate {rate} is too large"
                )
            if progress is not None:
                progress(step, losses[-1])
    finally:
        model.eval()
        optimizer.zero_grad()
    return tuple(losses)


def _rate_factor(step: int, steps: int) -> float:
    """Share of the peak rate in a step, counted from 0: it rises linearly, then falls as a cosine does."""
    rising = max(1, round(_WARM_UP * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
