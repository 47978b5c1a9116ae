"""How many of the samples each measurement of a search takes."""

from __future__ import annotations

import pytest
import torch

from flexcim_flow.choice.evidence import FEWEST_TOKENS, costed, judged, searched
from flexcim_flow.common.options import DEFAULT_LENGTH, DEFAULT_SAMPLES, MEASURED_IMAGES
from flexcim_flow.model.blocks import find_blocks
from tests.support.tiny_models import tiny_llama

pytestmark = pytest.mark.torch

IMAGES = torch.zeros(MEASURED_IMAGES + 5, 3, 4, 4)


def texts(samples: int, length: int = DEFAULT_LENGTH) -> torch.Tensor:
    return torch.zeros(samples, length, dtype=torch.int64)


def test_samples_that_are_enough_grow_with_the_widest_layer():
    units = tuple((layer,) for block in find_blocks(tiny_llama()) for layer in block.layers)
    widest = max(layer.shape[1] for (layer,) in units)
    samples = texts(100, 32)
    enough = searched(samples, units)
    assert 8 * widest <= enough.numel() < 8 * widest + 32
    assert len(searched(samples[:3], units)) == 3
    assert len(searched(IMAGES, units)) == len(IMAGES)


def test_costs_take_an_eighth_of_the_samples_and_judgements_three_sixteenths():
    assert len(costed(texts(160, 200))) == 20
    assert len(judged(texts(160, 200), texts(90, 200))) == 30
    assert len(costed(texts(DEFAULT_SAMPLES))) == 4
    assert len(judged(texts(DEFAULT_SAMPLES), texts(16))) == 6
    # As many of the text set apart as there are.
    assert len(judged(texts(160, 200), texts(7, 200))) == 7


def test_few_samples_are_measured_as_half_of_the_default_would_be():
    # The search was tuned on 1024 and 1536 tokens, which these shares of sixteen samples are. A tenth of them would be
    # less than one sample of the default length, and a choice would hang on what happens to stand in it.
    assert FEWEST_TOKENS == DEFAULT_SAMPLES * DEFAULT_LENGTH // 2
    for samples in (4, 15, 16):
        assert costed(texts(samples)).numel() == 1024
        assert judged(texts(samples), texts(16)).numel() == 1536
    assert len(judged(texts(17), texts(16))) == 4
    # Whole samples, whatever their length.
    assert len(costed(texts(8, 200))) == -(-1024 // 200)
    assert len(judged(texts(8, 200), texts(90, 200))) == -(-1536 // 200)


def test_of_images_there_are_as_many_whatever_their_size():
    assert len(costed(IMAGES)) == len(judged(IMAGES, IMAGES)) == MEASURED_IMAGES
    assert len(judged(IMAGES, IMAGES[:3])) == 3
