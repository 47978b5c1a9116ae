"""Recovery: a short fine-tuning in which what is pruned stays pruned."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from flexcim.errors import FlexCiMError
from flexcim_flow.common.options import BATCH_TOKENS
from flexcim_flow.model.blocks import LinearLayer
from flexcim_flow.samples.text import draw_samples

__all__ = ["RECOVERY_RATE", "RecoveryError", "ends", "recover"]

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
    batch_tokens: int = BATCH_TOKENS,
    begin: Callable[[int], None] | None = None,
) -> tuple[float, ...]:
    """Train a pruned causal language model for some steps on a text, in place, with its zeros held.

    All parameters learn, those outside the blocks as well; of the pruned layers only the weights that are not zero.
    Dropout stays off, so that nothing but the seed decides the result, and so few steps need none. The whole model, its
    gradients and AdamW's two moments are in memory.

    Parameters
    ----------
    model : PreTrainedModel
        The model, in float32 and in evaluation mode, all of it in memory; its parameters need no gradient afterwards.
    layers : sequence of LinearLayer
        Its pruned layers.
    tokens : Tensor
        The text, [tokens], int64: that of the calibration, never the one that is measured on.
    steps : int
        Steps.
    length : int
        Tokens of a sample.
    seed : int
        Seed of the samples' places. The same seed gives the same weights on the same machine.
    rate : float
        Peak learning rate.
    batch_tokens : int
        About how many tokens each step takes.
    begin : callable, optional
        Told the number of each step, from 1, before it is taken.

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
    size = max(1, batch_tokens // length)
    batches = draw_samples(tokens, steps * size, length + 1, seed).split(size)
    masks = [layer.weight != 0 for layer in layers]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate_factor(step, steps))
    losses = []
    model.requires_grad_(True)
    try:
        for step, batch in enumerate(batches, start=1):
            if begin is not None:
                begin(step)
            losses.append(_step(model, batch, optimizer))
            scheduler.step()
            # What a pruned weight would have learned is dropped; AdamW's moments of it do no harm.
            for layer, mask in zip(layers, masks, strict=True):
                layer.weight.mul_(mask)
            if not (math.isfinite(losses[-1]) and _is_finite(model)):
                raise RecoveryError(f"step {step} of the recovery leaves the finite numbers; rate {rate} is too large")
    finally:
        optimizer.zero_grad()
        model.requires_grad_(False)
    return tuple(losses)


def ends(losses: Sequence[float]) -> tuple[float, float]:
    """Mean loss of the first and of the last tenth of the steps; that of one step depends on what its samples are."""
    some = max(1, len(losses) // 10)
    return sum(losses[:some]) / some, sum(losses[-some:]) / some


def _step(model: PreTrainedModel, batch: Tensor, optimizer: torch.optim.Optimizer) -> float:
    """Take a step on samples of [length + 1] tokens, and give the loss before it."""
    device = next(model.parameters()).device
    batch = batch.to(device)
    with torch.enable_grad():
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits.float()
        loss = cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), _LARGEST_GRADIENT)
    optimizer.step()
    return float(loss.item())


def _is_finite(model: PreTrainedModel) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def _rate_factor(step: int, steps: int) -> float:
    """Share of the peak rate in a step, counted from 0: it rises linearly, then falls as a cosine does."""
    rising = max(1, round(_WARM_UP * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
