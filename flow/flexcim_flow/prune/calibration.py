"""What a model is calibrated on, and whether it can do what a run asks of it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from torch import Tensor

from flexcim.errors import FlexCiMError
from flexcim_flow.common.options import DEFAULT_LENGTH, GUARD_SAMPLES, MEASURED_IMAGES, Method
from flexcim_flow.model.checkpoint import Checkpoint
from flexcim_flow.prune.request import PruneRequest
from flexcim_flow.samples.images import draw_images, read_images, set_images_apart
from flexcim_flow.samples.text import draw_samples, mask_places, read_text, set_apart, tokenize

__all__ = ["Calibration", "PruneError", "calibrate", "check_abilities", "check_memory", "tokens_of", "window_of"]


_GIB = 2**30


class PruneError(FlexCiMError):
    """An option that does not fit the model; the message is one sentence."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a model is calibrated on.

    Parameters
    ----------
    length : int
        Tokens of a sample.
    samples : Tensor
        The samples, [samples, length], int64, or images [samples, channels, height, width], float32.
    guard : Tensor
        Samples that were set apart, to compare whole models on; none where no models are compared.
    tokens : Tensor
        The whole text, [tokens], int64, without masks; empty for images.
    mask : int, optional
        The token that stands in samples and guard where a masked language model is to predict.
    """

    length: int
    samples: Tensor
    guard: Tensor
    tokens: Tensor
    mask: int | None = None


def calibrate(request: PruneRequest, checkpoint: Checkpoint) -> Calibration:
    """Draw the samples.

    Raises
    ------
    FlexCiMError
        If the text or the images cannot be read, or do not fit the model.
    """
    length = window_of(request.length, checkpoint)
    if checkpoint.tokenizer is None:
        return _of_images(request, checkpoint, length)
    return _of_text(request, checkpoint, length)


def _of_images(request: PruneRequest, checkpoint: Checkpoint, length: int) -> Calibration:
    images = read_images(request.calibration)
    _check_images(checkpoint, images)
    measured, apart = set_images_apart(images) if request.chooser is Method.MEASURED else (images, images[:0])
    samples = draw_images(measured, request.samples, request.seed)
    guard = draw_images(apart, min(request.samples, MEASURED_IMAGES), request.seed)
    return Calibration(length, samples, guard, samples.new_empty(0).long())


def _of_text(request: PruneRequest, checkpoint: Checkpoint, length: int) -> Calibration:
    tokens = tokens_of(read_text(request.calibration), checkpoint)
    # A sample of the recovery has one token more: the one that its last predicts.
    if request.recover and len(tokens) <= length:
        raise PruneError(f"a recovery needs a calibration text of more than {length} tokens, not {len(tokens)}")
    # A measured plan is applied to the samples that it was chosen with.
    measured, apart = set_apart(tokens, length) if request.chooser is Method.MEASURED else (tokens, tokens[:0])
    samples = draw_samples(measured, request.samples, length, request.seed)
    guard = samples[:0]
    if len(apart):
        guard = draw_samples(apart, min(request.samples, GUARD_SAMPLES), length, request.seed)
    mask = _mask_of(checkpoint)
    if mask is not None:
        # Statistics are taken behind masks, too: a model predicts from what it computes there, and least squares would
        # give up inputs that no sample shows. A small trained model of bytes diverged twice as far at masks after it
        # was calibrated on plain text. The other 85 % of the places are text as it is.
        samples, guard = (mask_places(some, mask, request.seed) for some in (samples, guard))
    return Calibration(length, samples, guard, tokens, mask)


def _mask_of(checkpoint: Checkpoint) -> int | None:
    """The token that masks, of a masked language model whose tokenizer has one."""
    assert checkpoint.tokenizer is not None, "the model reads text"
    mask = checkpoint.tokenizer.mask_token_id
    if mask is None or checkpoint.model.can_generate():
        return None
    _check_known(mask, checkpoint)
    return int(mask)


def window_of(length: int | None, checkpoint: Checkpoint) -> int:
    """Tokens of a window: those asked for, which must fit the model's context, or as many as fit.

    Raises
    ------
    PruneError
        If they do not fit.
    """
    context = checkpoint.context
    if length is None:
        return DEFAULT_LENGTH if context is None else min(DEFAULT_LENGTH, context)
    if context is not None and length > context:
        raise PruneError(f"length must be at most the {context} tokens that the model sees at once, not {length}")
    return length


def tokens_of(text: str, checkpoint: Checkpoint) -> Tensor:
    """Tokens of a text, [tokens], int64.

    Raises
    ------
    PruneError
        If the model does not know one of them.
    """
    assert checkpoint.tokenizer is not None, "the model reads text"
    tokens = tokenize(text, checkpoint.tokenizer)
    _check_known(int(tokens.max()) if len(tokens) else 0, checkpoint)
    return tokens


def _check_known(token: int, checkpoint: Checkpoint) -> None:
    """PruneError if the model has no such token."""
    known = checkpoint.model.get_input_embeddings().num_embeddings
    if token >= known:
        raise PruneError(f"the tokenizer of {checkpoint.name} gives token {token}, but the model has only {known}")


def check_abilities(request: PruneRequest, checkpoint: Checkpoint) -> None:
    """Make sure that the model predicts the next token, or whatever a run needs of it, and that its samples fit.

    Raises
    ------
    PruneError
        If it does not, or they do not.
    """
    if checkpoint.tokenizer is not None:
        check_memory(request.samples, window_of(request.length, checkpoint), checkpoint)
    if request.plan is None and request.chooser is Method.MEASURED:
        _check_compared(request, checkpoint)
    if checkpoint.model.can_generate():
        return
    unable = f"{checkpoint.name} does not predict the next token"
    if request.evaluation is not None:
        raise PruneError(f"{unable}, so it cannot be evaluated on a text")
    if request.recover:
        raise PruneError(f"{unable}, so there is no loss to recover it by; recovery steps must be 0")


def check_memory(samples: int, length: int, checkpoint: Checkpoint) -> None:
    """Make sure that samples of text can be in memory on their way from block to block.

    Raises
    ------
    PruneError
        If they alone take more than the machine has.
    """
    # Each token is an int64, and float32 of the width that blocks hand on.
    token_bytes = 8 + 4 * getattr(checkpoint.model.config, "hidden_size", 0)
    taken = samples * length * token_bytes
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if taken > memory:
        raise PruneError(
            f"{samples} calibration samples of {length} tokens take at least {taken // _GIB} GiB of memory, but this "
            f"machine has {memory // _GIB} GiB; ask for fewer samples, or shorter ones"
        )


def _check_compared(request: PruneRequest, checkpoint: Checkpoint) -> None:
    """PruneError if the model's answers are no probabilities that `Method.MEASURED` could compare, or it gives none."""
    others = ", ".join(other.value for other in Method if other is not Method.MEASURED)
    if checkpoint.tokenizer is not None:
        # What the last token of a sample foretells is not in the sample.
        if checkpoint.model.can_generate() and window_of(request.length, checkpoint) < 2:
            raise PruneError(
                "method measured compares what the model predicts within a sample, which takes a length of at least 2, "
                f"not 1; use {others}"
            )
        return
    config = checkpoint.model.config
    task = config.problem_type or "single_label_classification"
    if config.num_labels < 2 or task != "single_label_classification":
        raise PruneError(
            f"{checkpoint.name} has num_labels {config.num_labels} and problem_type {task}, but method measured "
            f"compares probabilities of 2 or more labels that exclude each other; use {others}"
        )


def _check_images(checkpoint: Checkpoint, images: Tensor) -> None:
    """PruneError if the model does not read images of this shape."""
    config = checkpoint.model.config
    size = getattr(config, "image_size", None)
    if size is None:
        return
    height, width = (size, size) if isinstance(size, int) else size
    wanted, given = [config.num_channels, height, width], list(images.shape[1:])
    if given != wanted:
        raise PruneError(f"{checkpoint.name} reads images of shape {wanted}, but those for calibration are {given}")
