"""Resampling by matrices is torchvision's, in value and in gradient; what is made with it is the published recipes'."""

from functools import partial

import pytest
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional
from transformers import CLIPImageProcessor, SiglipImageProcessor

from srpo.rewards.preprocessing import clip_preprocessing, hps_preprocessing, siglip_preprocessing, to_shorter_side


@pytest.mark.parametrize(("height", "width"), [(90, 90), (41, 67), (224, 33), (20, 24), (32, 57)])
def test_values_and_gradients_are_torchvisions(height: int, width: int) -> None:
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(height), dtype=torch.float64)
    theirs = v2.Resize(32, interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    results = []
    for resize in (partial(to_shorter_side, size=32), theirs):
        leaf = images.float().requires_grad_()
        output = resize(leaf)
        output.square().sum().backward()
        assert leaf.grad is not None
        results.append((output.detach(), leaf.grad))
    torch.testing.assert_close(*(output for output, _ in results), atol=2e-6, rtol=0)
    torch.testing.assert_close(*(gradient for _, gradient in results), atol=1e-5, rtol=1e-5)


SHAPES = [(40, 56), (57, 43), (32, 32), (20, 24), (28, 90)]


def pictures(height: int, width: int) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(width))


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_clips_preprocessing_is_its_image_processors(height: int, width: int) -> None:
    images = pictures(height, width)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_rescale=False)
    expected = processor(images=list(images), return_tensors="pt").pixel_values
    ours = clip_preprocessing(32, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)(images)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_siglips_preprocessing_is_its_image_processors(height: int, width: int) -> None:
    images = pictures(height, width)
    processor = SiglipImageProcessor(size={"height": 28, "width": 28}, do_rescale=False)
    expected = processor(images=list(images), return_tensors="pt").pixel_values
    torch.testing.assert_close(siglip_preprocessing(28)(images), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_hps_sees_the_whole_picture_on_black(height: int, width: int) -> None:
    """HPSv2's recipe in torchvision's words: fit the longer side, pad with 0 to a square, odd rows below and right."""
    images, scale = pictures(height, width), 32 / max(height, width)
    size = [round(height * scale), round(width * scale)]
    resized = functional.resize(images, size, v2.InterpolationMode.BICUBIC, antialias=True)
    above, left = (32 - size[0]) // 2, (32 - size[1]) // 2
    squares = functional.pad(resized, [left, above, 32 - size[1] - left, 32 - size[0] - above])
    expected = functional.normalize(squares, list(OPENAI_DATASET_MEAN), list(OPENAI_DATASET_STD))
    ours = hps_preprocessing(32, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)(images)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_of_a_square_all_make_the_same() -> None:
    images, none = pictures(50, 50), ([0.5] * 3, [0.5] * 3)
    clip, hps, siglip = clip_preprocessing(32, *none), hps_preprocessing(32, *none), siglip_preprocessing(32)
    assert torch.equal(clip(images), hps(images)) and torch.equal(clip(images), siglip(images))
