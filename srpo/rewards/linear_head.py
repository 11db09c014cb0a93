"""The head of published scores: linear layers with dropout between them, and no activation."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def linear_head(widths: Sequence[int], dropouts: Sequence[float]) -> nn.Sequential:
    """Layers from each width to the next, the first of them followed by dropout.

    The names of published tensors count the dropouts: `0.weight`, `2.weight`, ...
    """
    head = nn.Sequential()
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        head.append(nn.Linear(inputs, outputs))
        if index < len(dropouts):
            head.append(nn.Dropout(dropouts[index]))
    return head
