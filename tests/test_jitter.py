"""Moves against torch's own padding; what the methods make of them is in tests/methods/test_methods.py."""

import itertools

import pytest
import torch
from torch.nn.functional import pad

from srpo.config import parse_config
from srpo.errors import ConfigError
from srpo.jitter import move

IMAGE = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("down", "right"), itertools.product((-5, -1, 0, 2, 5), (-7, 0, 1, 7)))
def test_a_move_is_a_cut_out_of_the_padded_picture(down: int, right: int) -> None:
    padded = pad(IMAGE[None], (8, 8, 6, 6), mode="replicate")[0]
    assert torch.equal(move(IMAGE, down, right), padded[:, 6 - down : 12 - down, 8 - right : 16 - right])


def test_the_gradient_goes_back_to_where_the_pixels_came_from() -> None:
    image = IMAGE.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda image: move(image, 2, -3), image)


def test_a_jitter_that_loses_the_picture_is_refused() -> None:
    size = {"height": 32, "width": 48}
    parse_config({"model": size, "train": {"jitter": 16}}, "test")
    with pytest.raises(ConfigError, match=r"train\.jitter \(17\) .* at most 16 px at 32 x 48"):
        parse_config({"model": size, "train": {"jitter": 17}}, "test")
