"""Pictures moved by a few pixels before a reward sees them.

The image tower of a reward cuts a picture into patches, always at the same places; a model that is trained through it
learns to draw their grid, which raises the reward and nothing else. At a place that changes there is no grid to learn.
"""

import torch
from torch import Tensor


def move(image: Tensor, down: int, right: int) -> Tensor:
    """An image (..., height, width) moved by pixels, fewer than it has; its edge is repeated where it has left."""
    return _along(_along(image, down, -2), right, -1)


def _along(image: Tensor, by: int, dim: int) -> Tensor:
    """By slices, whose gradient is the same from run to run; that of torch's padding is not on a GPU."""
    size = image.shape[dim]
    kept = image.narrow(dim, max(-by, 0), size - abs(by))
    shape = list(image.shape)
    shape[dim] = abs(by)
    edge = image.narrow(dim, 0 if by > 0 else size - 1, 1).expand(shape)
    return torch.cat([edge, kept] if by > 0 else [kept, edge], dim)
