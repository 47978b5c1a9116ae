"""Texts as a model reads them: tokens that it knows, and windows that fit."""

from __future__ import annotations

import pytest

from flexcim_flow.model.checkpoint import load_checkpoint
from flexcim_flow.samples.text import TextError
from flexcim_flow.samples.windows import EvaluationText, check_memory, tokens_of, window_of
from tests.support.tiny_models import save_tiny, tiny_llama

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model that sees 64 tokens at once."""
    return load_checkpoint(save_tiny(tmp_path_factory.mktemp("model"), tiny_llama()))


def test_an_evaluation_text_is_counted_in_tokens_and_in_bytes(checkpoint):
    text = EvaluationText.of("words – bytes", checkpoint, 8, None)
    assert text.tokens.tolist() == tokens_of("words – bytes", checkpoint).tolist()
    assert (len(text.tokens), text.size) == (15, 15)  # a dash has three bytes, and each byte is a token
    assert (text.length, text.stride) == (8, None)


def test_a_window_fits_the_context(checkpoint):
    assert window_of(None, checkpoint) == window_of(64, checkpoint) == 64
    assert window_of(7, checkpoint) == 7
    with pytest.raises(TextError, match=r"^length must be at most the 64 tokens that the model sees at once, not 65$"):
        window_of(65, checkpoint)


def test_a_model_without_a_limit_reads_the_default(checkpoint, monkeypatch):
    monkeypatch.setattr(type(checkpoint), "context", None)
    assert window_of(None, checkpoint) == 512
    assert window_of(100_000, checkpoint) == 100_000


def test_samples_are_to_fit_in_memory(checkpoint):
    check_memory(100, 64, checkpoint)
    with pytest.raises(TextError, match=r"^1000000000 calibration samples of 64 tokens take at least 6\d\d\d GiB"):
        check_memory(10**9, 64, checkpoint)
