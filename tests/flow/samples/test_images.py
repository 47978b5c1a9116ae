"""Images for calibration."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from flexcim_flow.samples.images import ImageError, draw_images, read_images, set_images_apart

pytestmark = pytest.mark.torch


def test_images_are_read_as_float32(tmp_path):
    images = torch.randn(3, 1, 4, 4)
    save_file({"pixel_values": images.half()}, tmp_path / "images")
    assert torch.equal(read_images(tmp_path / "images"), images.half().float())


def test_files_without_images_are_refused(tmp_path):
    with pytest.raises(ImageError, match=r"gone: cannot be read as a safetensors file of images \(.+\)$"):
        read_images(tmp_path / "gone")
    (tmp_path / "text").write_text("In the beginning")
    with pytest.raises(ImageError, match=r"text: cannot be read as a safetensors file of images \(.+\)$"):
        read_images(tmp_path / "text")
    save_file({"labels": torch.ones(3)}, tmp_path / "labels")
    with pytest.raises(ImageError, match=r"labels: must hold a tensor 'pixel_values', not 'labels'$"):
        read_images(tmp_path / "labels")
    for tensor, shape in ((torch.ones(3, 4, 4), r"\[3, 4, 4\] float32"), (torch.ones(1, 1, 1, 1).int(), r".* int32")):
        save_file({"pixel_values": tensor}, tmp_path / "odd")
        with pytest.raises(ImageError, match=rf"odd: pixel_values must be \[images, .*\] and floating, not {shape}$"):
            read_images(tmp_path / "odd")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.ones(0, 3, 32, 32), r"there are no calibration images, as pixel_values is \[0, 3, 32, 32\]"),
        (torch.full((2, 3, 4, 4), torch.nan), "the calibration images hold values that are not finite"),
        (
            torch.full((2, 3, 4, 4), 1e300, dtype=torch.float64),
            "the calibration images hold values that are not finite",
        ),
    ],
    ids=["none", "nan", "too large"],
)
def test_images_that_show_nothing_are_refused(images, message, tmp_path):
    save_file({"pixel_values": images}, tmp_path / "images")
    with pytest.raises(ImageError, match=rf"images: {message}$"):
        read_images(tmp_path / "images")


def test_images_are_drawn_once_each():
    images = torch.arange(10.0).view(10, 1, 1, 1)
    drawn = draw_images(images, 4, seed=1)
    assert len(drawn) == len(drawn.unique()) == 4
    assert torch.equal(drawn, draw_images(images, 4, seed=1))
    assert not torch.equal(drawn, draw_images(images, 4, seed=2))
    assert draw_images(images, 99, seed=1).flatten().sort().values.tolist() == list(range(10))
    with pytest.raises(ImageError, match=r"^calibration samples must be at least 1, not 0$"):
        draw_images(images, 0, seed=1)


@pytest.mark.parametrize(("images", "apart"), [(2, [1]), (7, [3]), (15, [7]), (24, [4, 12, 20])])
def test_an_eighth_of_the_images_is_set_apart_all_over_the_file(images, apart):
    measured, compared = set_images_apart(torch.arange(float(images)).view(-1, 1, 1, 1))
    assert compared.flatten().tolist() == apart
    assert sorted([*measured.flatten().tolist(), *apart]) == list(range(images))


def test_a_single_image_serves_for_both():
    image = torch.ones(1, 3, 4, 4)
    assert all(torch.equal(part, image) for part in set_images_apart(image))
