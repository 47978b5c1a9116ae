"""Texts: reading, tokenising, sampling, and every way in which a file can be wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flexcim_flow.samples.text import (
    LEAK_CHARACTERS,
    TextError,
    check_unseen,
    draw_samples,
    mask_places,
    read_text,
    set_apart,
    tokenize,
)
from tests.support.tiny_models import byte_tokenizer

pytestmark = pytest.mark.torch


def test_a_text_becomes_its_bytes(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("naïve – text\r\n".encode())
    text = read_text(path)
    tokenizer = byte_tokenizer()
    tokens = tokenize(text, tokenizer)
    assert tokens.dtype == torch.int64
    assert len(tokens) == path.stat().st_size
    assert tokenizer.decode(tokens) == "naïve – text\r\n"


def test_files_that_are_no_text_are_refused(tmp_path):
    missing, empty, binary = tmp_path / "missing", tmp_path / "empty", tmp_path / "binary"
    empty.write_text(" \n")
    binary.write_bytes(b"ab\xffc")
    with pytest.raises(TextError, match=r"missing: cannot be read \(No such file or directory\)$"):
        read_text(missing)
    with pytest.raises(TextError, match=r"cannot be read \(Is a directory\)$"):
        read_text(tmp_path)
    with pytest.raises(TextError, match=r"empty: is empty$"):
        read_text(empty)
    with pytest.raises(TextError, match=r"binary: is no UTF-8 text \(byte 2 is 0xff\)$"):
        read_text(binary)


def random_text(rng, size):
    """Text of a few letters: short passages come again and again."""
    return "".join(rng.choice(list("abcd "), size))


@pytest.mark.parametrize("place", range(0, 200, 13))
def test_a_leak_is_found_wherever_it_lies(place):
    rng = np.random.default_rng(place)
    calibration, evaluation = random_text(rng, 3000), random_text(rng, 1000)
    check_unseen(calibration, evaluation)
    for size, leaks in ((LEAK_CHARACTERS - 4, False), (LEAK_CHARACTERS, True)):
        copied = calibration[700 + place : 700 + place + size]
        # The passage's neighbours may go on alike by chance, but not with these.
        mixed = evaluation[:place] + "(" + copied + ")" + evaluation[place:]
        if leaks:
            with pytest.raises(TextError, match=rf"^the evaluation text shares a passage of 128 .* {copied[:40]!r}"):
                check_unseen(calibration, mixed)
        else:
            check_unseen(calibration, mixed)


@pytest.mark.parametrize("texts", [("", "a" * 500), ("a" * 500, ""), ("a" * 127, "a" * 127), ("ab" * 300, "ba" * 63)])
def test_short_texts_share_nothing_long(texts):
    check_unseen(*texts)


def test_samples_are_windows_of_the_text_and_follow_the_seed():
    tokens = torch.arange(100)
    samples = draw_samples(tokens, 50, 30, seed=3)
    assert samples.shape == (50, 30)
    assert (samples.diff(dim=1) == 1).all()
    assert torch.equal(samples, draw_samples(tokens, 50, 30, seed=3))
    assert not torch.equal(samples, draw_samples(tokens, 50, 30, seed=4))
    # The first and the last possible place can both be drawn.
    starts = draw_samples(tokens, 2000, 90, seed=0)[:, 0]
    assert (int(starts.min()), int(starts.max())) == (0, 10)
    assert draw_samples(tokens, 2, 100, seed=0).tolist() == [list(range(100))] * 2


def test_impossible_samples_are_refused():
    tokens = torch.arange(9)
    with pytest.raises(TextError, match=r"^the calibration text has 9 tokens, fewer than the 10 of one sample$"):
        draw_samples(tokens, 1, 10, seed=0)
    with pytest.raises(TextError, match=r"^calibration samples must be at least 1, not 0$"):
        draw_samples(tokens, 0, 5, seed=0)
    with pytest.raises(TextError, match=r"^calibration length must be at least 1, not -1$"):
        draw_samples(tokens, 1, -1, seed=0)


@pytest.mark.parametrize("size", [100, 799, 800, 5000, 100_000])
def test_a_text_is_split_in_two_that_share_nothing(size):
    tokens = torch.arange(size)
    measured, apart = set_apart(tokens, 100)
    if size < 800:
        assert torch.equal(measured, tokens)
        assert torch.equal(apart, tokens)
        return
    assert torch.equal(torch.cat([measured, apart]).sort().values, tokens)
    assert len(apart) == pytest.approx(size / 8, rel=0.01)
    # Whole windows fit into each stretch that is set apart, and the stretches lie all over the text.
    seams = (apart.diff() != 1).nonzero().flatten()
    assert len(apart) // (len(seams) + 1) >= 100
    assert apart[0] <= size - len(apart)


@pytest.mark.parametrize(("length", "masked"), [(1, 1), (4, 1), (20, 3), (512, 77)])
def test_each_sample_has_as_many_masks(length, masked):
    samples = torch.arange(5 * length).view(5, length) + 1
    found = mask_places(samples, 0, seed=3)
    assert (found == 0).sum(dim=1).tolist() == [masked] * 5
    assert torch.equal(found[found != 0], samples[found != 0])
    assert torch.equal(found, mask_places(samples, 0, seed=3))
    if length == 512:
        assert not torch.equal(found, mask_places(samples, 0, seed=4))
        assert len({tuple(row.nonzero().flatten().tolist()) for row in found == 0}) == 5
