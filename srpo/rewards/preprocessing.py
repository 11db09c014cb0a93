"""The preprocessing of published scores on tensors: bicubic, antialiased resizing to the model's size, mean and std.

CLIP cuts the middle out of the picture, HPSv2's own evaluation sets all of it on black, SigLIP squashes it. Of a square
picture all three make the same.

The resampling is two matrix products whose weights are PyTorch's own: the gradient of its kernel adds up with atomics
on a GPU, in an order that changes from run to run, and a resumed run would not repeat the last bits.
"""

from collections.abc import Sequence
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torchvision.transforms import v2


def to_shorter_side(images: Tensor, size: int) -> Tensor:
    """Images (batch, channels, height, width) whose shorter side becomes `size`, the longer in proportion."""
    height, width = images.shape[-2:]
    shorter = min(height, width)
    return resample(images, size * height // shorter, size * width // shorter)


def on_black(images: Tensor, size: int) -> Tensor:
    """Images (batch, channels, height, width) whose longer side becomes `size`, in the middle of a black square."""
    scale = size / max(images.shape[-2:])
    height, width = (round(length * scale) for length in images.shape[-2:])
    above, left = (size - height) // 2, (size - width) // 2
    return pad(resample(images, height, width), (left, size - width - left, above, size - height - above))


def resample(images: Tensor, height: int, width: int) -> Tensor:
    """Images (batch, channels, height, width) of another size; those of the right one are left as they are."""
    if images.shape[-2:] == (height, width):
        return images
    rows = resampling(images.shape[-2], height).to(images)
    columns = resampling(images.shape[-1], width).to(images)
    return rows @ images @ columns.T


@cache
def resampling(length: int, new_length: int) -> Tensor:
    """Weights (new_length, length) of the resampling along one axis: what it makes of each unit vector."""
    units = torch.eye(length)[None, None]
    return interpolate(units, (new_length, length), mode="bicubic", antialias=True)[0, 0]


def clip_preprocessing(size: int, mean: Sequence[float], std: Sequence[float]) -> v2.Compose:
    """What turns images (batch, 3, height, width) in [0, 1] into the input of a CLIP image tower."""
    return v2.Compose([partial(to_shorter_side, size=size), v2.CenterCrop(size), v2.Normalize(list(mean), list(std))])


def hps_preprocessing(size: int, mean: Sequence[float], std: Sequence[float]) -> v2.Compose:
    """HPSv2's own, in its evaluation (github.com/tgxs002/HPSv2, `ResizeMaxSize`); its training crops as CLIP does."""
    return v2.Compose([partial(on_black, size=size), v2.Normalize(list(mean), list(std))])


def siglip_preprocessing(size: int) -> v2.Compose:
    """SigLIP's: images in [0, 1] to squares in [-1, 1]."""
    return v2.Compose([partial(resample, height=size, width=size), v2.Normalize([0.5] * 3, [0.5] * 3)])
