"""CLIP's preprocessing on tensors: shorter side to the model's size (bicubic, antialiased), centre crop, mean and std.

The resampling is two matrix products whose weights are PyTorch's own: the gradient of its kernel adds up with atomics
on a GPU, in an order that changes from run to run, and a resumed run would not repeat the last bits.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.transforms import v2


class Resize(nn.Module):
    """Images (batch, channels, height, width) whose shorter side becomes `size`, the longer in proportion."""

    def __init__(self, size: int, antialias: bool = True) -> None:
        super().__init__()
        self.size = size
        self.antialias = antialias

    def forward(self, images: Tensor) -> Tensor:
        """The resized images; those of the right size are left as they are."""
        height, width = images.shape[-2:]
        shorter = min(height, width)
        if shorter == self.size:
            return images
        rows, columns = (
            resampling(length, self.size * length // shorter, self.antialias).to(images) for length in (height, width)
        )
        return rows @ images @ columns.T


@cache
def resampling(length: int, new_length: int, antialias: bool) -> Tensor:
    """Weights (new_length, length) of bicubic resampling along one axis: what it makes of each unit vector."""
    units = torch.eye(length)[None, None]
    return interpolate(units, (new_length, length), mode="bicubic", antialias=antialias)[0, 0]


def clip_preprocessing(size: int, mean: Sequence[float], std: Sequence[float]) -> v2.Compose:
    """What turns images (batch, 3, height, width) in [0, 1] into the input of a CLIP image tower."""
    return v2.Compose([Resize(size), v2.CenterCrop(size), v2.Normalize(list(mean), list(std))])
