"""What a model is calibrated on, and whether it can do what a run asks of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from flexcim.errors import FlexCiMError
from flexcim_flow.choice.selector import SELECTORS
from flexcim_flow.common.options import GUARD_SAMPLES, MEASURED_IMAGES
from flexcim_flow.model.checkpoint import Checkpoint
from flexcim_flow.prune.request import PruneRequest
from flexcim_flow.samples.images import draw_images, read_images, set_images_apart
from flexcim_flow.samples.text import draw_samples, mask_places, read_text, set_apart
from flexcim_flow.samples.windows import check_known, check_memory, tokens_of

__all__ = ["Calibration", "PruneError", "calibrate", "check_abilities"]


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
    text : str
        The whole text; empty for images.
    tokens : Tensor
        Its tokens, [tokens], int64, without masks; none for images.
    mask : int, optional
        The token that stands in samples and guard where a masked language model is to predict.
    """

    length: int
    samples: Tensor
    guard: Tensor
    text: str
    tokens: Tensor
    mask: int | None = None


def calibrate(request: PruneRequest, checkpoint: Checkpoint, length: int) -> Calibration:
    """Read the calibration's file, and draw the samples.

    Parameters
    ----------
    request : PruneRequest
        What is asked for.
    checkpoint : Checkpoint
        The model.
    length : int
        Tokens of a sample.

    Raises
    ------
    FlexCiMError
        If the text or the images cannot be read, or do not fit the model.
    """
    if checkpoint.tokenizer is None:
        return _of_images(request, checkpoint, length)
    return _of_text(request, checkpoint, length)


def _of_images(request: PruneRequest, checkpoint: Checkpoint, length: int) -> Calibration:
    images = read_images(request.calibration)
    _check_images(checkpoint, images)
    most, apart = set_images_apart(images) if request.selector.compares else (images, images[:0])
    samples = draw_images(most, request.samples, request.seed)
    guard = draw_images(apart, min(request.samples, MEASURED_IMAGES), request.seed)
    return Calibration(length, samples, guard, "", samples.new_empty(0).long())


def _of_text(request: PruneRequest, checkpoint: Checkpoint, length: int) -> Calibration:
    text = read_text(request.calibration)
    tokens = tokens_of(text, checkpoint)
    # A sample of the recovery has one token more: the one that its last predicts.
    if request.recover and len(tokens) <= length:
        raise PruneError(f"a recovery needs a calibration text of more than {length} tokens, not {len(tokens)}")
    # A plan is applied to the samples that it was chosen with.
    most, apart = set_apart(tokens, length) if request.selector.compares else (tokens, tokens[:0])
    samples = draw_samples(most, request.samples, length, request.seed)
    guard = samples[:0]
    if len(apart):
        guard = draw_samples(apart, min(request.samples, GUARD_SAMPLES), length, request.seed)
    mask = _mask_of(checkpoint)
    if mask is not None:
        # Statistics are taken behind masks, too: a model predicts from what it computes there, and least squares would
        # give up inputs that no sample shows. A small trained model of bytes diverged twice as far at masks after it
        # was calibrated on plain text. The other 85 % of the places are text as it is.
        samples, guard = (mask_places(some, mask, request.seed) for some in (samples, guard))
    return Calibration(length, samples, guard, text, tokens, mask)


def _mask_of(checkpoint: Checkpoint) -> int | None:
    """The token that masks, of a masked language model whose tokenizer has one."""
    assert checkpoint.tokenizer is not None, "the model reads text"
    mask = checkpoint.tokenizer.mask_token_id
    if mask is None or checkpoint.model.can_generate():
        return None
    check_known(mask, checkpoint)
    return int(mask)


def check_abilities(request: PruneRequest, checkpoint: Checkpoint, length: int) -> None:
    """Make sure that the model predicts the next token, or whatever a run needs of it, and that its samples fit.

    Parameters
    ----------
    request : PruneRequest
        What is asked for.
    checkpoint : Checkpoint
        The model.
    length : int
        Tokens of a sample.

    Raises
    ------
    PruneError, TextError
        If it does not, or they do not.
    """
    if checkpoint.tokenizer is not None:
        check_memory(request.samples, length, checkpoint)
    elif request.length is not None:
        raise PruneError(f"{checkpoint.name} reads images, which have no tokens, so that a length has no effect")
    if request.plan is None and request.selector.compares:
        _check_compared(request.chooser, checkpoint, length)
    if checkpoint.model.can_generate():
        return
    unable = f"{checkpoint.name} does not predict the next token"
    if request.evaluation is not None:
        raise PruneError(f"{unable}, so it cannot be evaluated on a text")
    if request.recover:
        raise PruneError(f"{unable}, so there is no loss to recover it by; recovery steps must be 0")


def _check_compared(method: str, checkpoint: Checkpoint, length: int) -> None:
    """PruneError if the model's answers are no probabilities that a method could compare, or it gives none."""
    others = ", ".join(name for name in SELECTORS.own if not SELECTORS[name].compares)
    if checkpoint.tokenizer is not None:
        # What the last token of a sample foretells is not in the sample.
        if checkpoint.model.can_generate() and length < 2:
            raise PruneError(
                f"method {method} compares what the model predicts within a sample, which takes a length of at least "
                f"2, not 1; use {others}"
            )
        return
    config = checkpoint.model.config
    task = config.problem_type or "single_label_classification"
    if config.num_labels < 2 or task != "single_label_classification":
        raise PruneError(
            f"{checkpoint.name} has num_labels {config.num_labels} and problem_type {task}, but method {method} "
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
