"""Texts as a model reads them: tokens that it knows, in windows that fit its context."""

from __future__ import annotations

import os
from dataclasses import dataclass

from torch import Tensor

from flexcim_flow.common.options import DEFAULT_LENGTH
from flexcim_flow.model.checkpoint import Checkpoint
from flexcim_flow.samples.text import TextError, tokenize

__all__ = ["EvaluationText", "check_known", "check_memory", "tokens_of", "window_of"]

_GIB = 2**30


@dataclass(frozen=True, eq=False)
class EvaluationText:
    """The text that a model is measured on, in its tokens, and the windows that these are read in.

    Parameters
    ----------
    tokens : Tensor
        The whole text, [tokens], int64.
    size : int
        Its bytes in UTF-8.
    length : int
        Tokens of a window.
    stride : int, optional
        Tokens from one window to the next; by default the length.
    """

    tokens: Tensor
    size: int
    length: int
    stride: int | None = None

    @classmethod
    def of(cls, text: str, checkpoint: Checkpoint, length: int, stride: int | None) -> EvaluationText:
        """Tokenise a text.

        Raises
        ------
        TextError
            If the model does not know a token.
        """
        return cls(tokens_of(text, checkpoint), len(text.encode()), length, stride)


def window_of(length: int | None, checkpoint: Checkpoint) -> int:
    """Tokens of a window: those asked for, which must fit the model's context, or as many as fit.

    Raises
    ------
    TextError
        If they do not fit.
    """
    context = checkpoint.context
    if length is None:
        return DEFAULT_LENGTH if context is None else min(DEFAULT_LENGTH, context)
    if context is not None and length > context:
        raise TextError(f"length must be at most the {context} tokens that the model sees at once, not {length}")
    return length


def tokens_of(text: str, checkpoint: Checkpoint) -> Tensor:
    """Tokens of a text, [tokens], int64.

    Raises
    ------
    TextError
        If the model does not know one of them.
    """
    assert checkpoint.tokenizer is not None, "the model reads text"
    tokens = tokenize(text, checkpoint.tokenizer)
    check_known(int(tokens.max()) if len(tokens) else 0, checkpoint)
    return tokens


def check_known(token: int, checkpoint: Checkpoint) -> None:
    """Make sure that the model has a token that its tokenizer gives.

    Raises
    ------
    TextError
        If it has not.
    """
    known = checkpoint.model.get_input_embeddings().num_embeddings
    if token >= known:
        raise TextError(f"the tokenizer of {checkpoint.name} gives token {token}, but the model has only {known}")


def check_memory(samples: int, length: int, checkpoint: Checkpoint) -> None:
    """Make sure that samples of text can be in memory on their way from block to block.

    Raises
    ------
    TextError
        If they alone take more than the machine has.
    """
    # Each token is an int64, and float32 of the width that blocks hand on.
    token_bytes = 8 + 4 * getattr(checkpoint.model.config, "hidden_size", 0)
    taken = samples * length * token_bytes
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if taken > memory:
        raise TextError(
            f"{samples} calibration samples of {length} tokens take at least {taken // _GIB} GiB of memory, but this "
            f"machine has {memory // _GIB} GiB; ask for fewer samples, or shorter ones"
        )
