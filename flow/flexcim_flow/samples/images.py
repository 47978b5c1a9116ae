"""Images for calibration: read from a safetensors file, as the model's own image processor leaves them."""

from __future__ import annotations

import os

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from flexcim.errors import FlexCiMError
from flexcim_flow.common.seeds import seeded

__all__ = ["ImageError", "draw_images", "read_images", "set_images_apart"]

_NAME = "pixel_values"


class ImageError(FlexCiMError):
    """Images that cannot be used; the message is one sentence."""


def read_images(path: str | os.PathLike[str]) -> Tensor:
    """Read ``pixel_values``, [images, channels, height, width], floating, as float32.

    Raises
    ------
    ImageError
        If the file cannot be read or holds no such tensor, or there is no image, or one is not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if _NAME not in names:
                raise ImageError(
                    f"{path}: must hold a tensor {_NAME!r}, not {', '.join(map(repr, names)) or 'nothing'}"
                )
            images = file.get_tensor(_NAME)
    except (OSError, SafetensorError) as error:
        raise ImageError(f"{path}: cannot be read as a safetensors file of images ({error})") from None
    if images.ndim != 4 or not images.is_floating_point():
        raise ImageError(
            f"{path}: {_NAME} must be [images, channels, height, width] and floating, not {list(images.shape)} "
            f"{str(images.dtype).removeprefix('torch.')}"
        )
    if not images.numel():
        raise ImageError(f"{path}: there are no calibration images, as {_NAME} is {list(images.shape)}")
    # What float32 takes for infinite counts as well.
    images = images.float()
    if not images.isfinite().all():
        raise ImageError(f"{path}: the calibration images hold values that are not finite")
    return images


def draw_images(images: Tensor, samples: int, seed: int) -> Tensor:
    """Draw images at random, each at most once; all of them, in a random order, if there are fewer than ``samples``.

    Raises
    ------
    ImageError
        If the number is not positive.
    """
    if samples < 1:
        raise ImageError(f"calibration samples must be at least 1, not {samples}")
    return images[torch.randperm(len(images), generator=seeded(seed))[:samples]]


def set_images_apart(images: Tensor) -> tuple[Tensor, Tensor]:
    """Split images in two: 7/8 to measure on, and 1/8, at least one, to compare on what was not measured.

    The eighth is taken at equal distances, as files often hold one class after the other. A single image serves for
    both, as does a text that is too short to be split (`flexcim_flow.samples.text.set_apart`).

    Parameters
    ----------
    images : Tensor
        [images, channels, height, width], floating.

    Returns
    -------
    tuple of Tensor
        The two parts.
    """
    if len(images) == 1:
        return images, images
    parts = max(1, len(images) // 8)
    # The middle of each of so many stretches.
    apart = torch.zeros(len(images), dtype=torch.bool)
    apart[(2 * torch.arange(parts) + 1) * len(images) // (2 * parts)] = True
    return images[~apart], images[apart]
