"""Texts: read from UTF-8 files, tokenised, and cut into calibration samples."""

from __future__ import annotations

import os
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from flexcim.errors import FlexCiMError
from flexcim_flow.common.seeds import seeded

__all__ = [
    "LEAK_CHARACTERS",
    "TextError",
    "check_unseen",
    "draw_samples",
    "mask_places",
    "read_text",
    "set_apart",
    "tokenize",
]

LEAK_CHARACTERS = 128
"""A passage of so many characters in two texts is no coincidence: one was copied from the other."""

_MASKED = 0.15
"""Share of a sample's places that are masked: that of BERT's own training, which most masked models follow."""

_STRETCHES = 16
"""Parts of a text that give up an eighth each: enough for the two halves of a split to be of one kind."""


class TextError(FlexCiMError):
    """A text that cannot be used; the message is one sentence."""


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a UTF-8 file.

    Raises
    ------
    TextError
        If the file cannot be read, is no UTF-8, or is empty.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
    except OSError as error:
        raise TextError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise TextError(f"{path}: is no UTF-8 text (byte {error.start} is {content[error.start]:#04x})") from None
    if not text.strip():
        raise TextError(f"{path}: is empty")
    return text


def check_unseen(calibration: str, evaluation: str) -> None:
    """Make sure that a model is not measured on what it was calibrated with.

    Raises
    ------
    TextError
        If the texts share a passage of `LEAK_CHARACTERS` characters.
    """
    # Wherever such a passage lies in the calibration text, it holds one of its pieces of half the length whole.
    half = LEAK_CHARACTERS // 2
    pieces: dict[str, list[int]] = {}
    for start in range(0, len(calibration) - half + 1, half):
        pieces.setdefault(calibration[start : start + half], []).append(start)
    for place in range(len(evaluation) - half + 1):
        for start in pieces.get(evaluation[place : place + half], ()):
            shared = _shared_around(calibration, start, evaluation, place, half)
            if len(shared) >= LEAK_CHARACTERS:
                raise TextError(
                    f"the evaluation text shares a passage of {LEAK_CHARACTERS} or more characters with the "
                    f"calibration text, {shared[:40]!r} ...; measure on a text that the calibration has not seen"
                )


def _shared_around(one: str, start: int, other: str, place: int, reach: int) -> str:
    """What two texts share around places where they are equal, as far as ``reach`` before them and twice that after."""
    before = _common(one[max(0, start - reach) : start][::-1], other[max(0, place - reach) : place][::-1])
    return before[::-1] + _common(one[start : start + 2 * reach], other[place : place + 2 * reach])


def _common(one: str, other: str) -> str:
    """The beginning that two texts share."""
    return "".join(left for left, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def tokenize(text: str, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Tokens of a text, [tokens], int64, without the special tokens that a tokenizer adds around one."""
    # verbose=False: that a text is longer than the model's context is meant, it is cut into windows.
    tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor(tokens, dtype=torch.int64)


def draw_samples(tokens: Tensor, samples: int, length: int, seed: int) -> Tensor:
    """Draw windows of a text at random places; they may overlap.

    Parameters
    ----------
    tokens : Tensor
        The text, [tokens], int64.
    samples, length : int
        Number of windows, and tokens in each.
    seed : int
        Seed of the places.

    Returns
    -------
    Tensor
        [samples, length], int64.

    Raises
    ------
    TextError
        If a number is not positive, or the text is shorter than one window.
    """
    for name, value in (("samples", samples), ("length", length)):
        if value < 1:
            raise TextError(f"calibration {name} must be at least 1, not {value}")
    if len(tokens) < length:
        raise TextError(f"the calibration text has {len(tokens)} tokens, fewer than the {length} of one sample")
    starts = torch.randint(len(tokens) - length + 1, (samples,), generator=seeded(seed))
    return tokens[starts[:, None] + torch.arange(length)]


def mask_places(samples: Tensor, mask: int, seed: int) -> Tensor:
    """Put a mask at 15 % of each sample's places, at least at one, drawn at random.

    Parameters
    ----------
    samples : Tensor
        [samples, length], int64.
    mask : int
        The token that masks.
    seed : int
        Seed of the places.

    Returns
    -------
    Tensor
        The samples with so many masks, [samples, length], int64.
    """
    masked = max(1, round(_MASKED * samples.shape[1]))
    places = torch.rand(samples.shape, generator=seeded(seed)).topk(masked, dim=1).indices
    return samples.scatter(1, places, mask)


def set_apart(tokens: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Split a text in two that share no token: 7/8 to measure on, and 1/8 to compare on what was not measured.

    The eighth is taken from many places, as a text's end may be unlike its beginning. A text that is too short for a
    window in the eighth serves for both.

    Parameters
    ----------
    tokens : Tensor
        The text, [tokens], int64.
    length : int
        Tokens of a window.

    Returns
    -------
    tuple of Tensor
        The two parts, int64 each.
    """
    if len(tokens) // 8 < length:
        return tokens, tokens
    # A short text is cut into fewer stretches, so that whole windows fit into what each gives up.
    stretches = max(1, min(_STRETCHES, len(tokens) // (8 * length)))
    size = len(tokens) // stretches
    parts = [tokens[start * size : (start + 1) * size if start < stretches - 1 else None] for start in range(stretches)]
    cut = size // 8
    return torch.cat([part[:-cut] for part in parts]), torch.cat([part[-cut:] for part in parts])
