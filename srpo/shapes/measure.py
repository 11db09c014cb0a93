"""What a picture of the Shapes world shows, measured from its pixels: ground truth for trainings and evaluations.

Every function takes images (batch, 3, height, width) in [0, 1] and returns one number per image, (batch,). The oracle
that reads shape, colours and background was trained on all contents, styles and distortions; it is never a reward.
"""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from srpo.meters import luma
from srpo.shapes.render import COLOURS, SHAPES, TEXTURE_PERIOD, parse_caption

ORACLE_PATH = Path(__file__).parent / "weights" / "oracle.safetensors"
_BATCH = 256


def texture(images: Tensor) -> Tensor:
    """Amplitude of dots of the world's period, whatever their phase: Fourier components on both diagonals of luma."""
    brightness = luma(images)[:, 0]
    spectrum = torch.fft.fft2(brightness, norm="forward").abs()
    rows, columns = (size // TEXTURE_PERIOD for size in brightness.shape[-2:])
    return 2 * (spectrum[:, rows, columns] + spectrum[:, rows, -columns])


class Oracle(nn.Module):
    """Four convolutions and three linear heads: images -> logits of shape, colour and background."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 72, 96)
        layers: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(pairwise(widths)):
            stride = 1 if index == 0 else 2
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(8, outputs), nn.SiLU()]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        width = widths[-1] * 4
        self.shape, self.colour, self.background = (nn.Linear(width, n) for n in _HEADS)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (batch, classes) of each head for images in [0, 1]."""
        features = self.features(images * 2 - 1)
        return self.shape(features), self.colour(features), self.background(features)


_HEADS = (len(SHAPES), len(COLOURS), len(COLOURS))


def content_labels(captions: Sequence[str]) -> Tensor:
    """(batch, 3) indices of shape, colour and background; ValueError for a caption that is not the world's."""
    colours = list(COLOURS)
    contents = (parse_caption(caption) for caption in captions)
    return torch.tensor([(SHAPES.index(c.shape), *map(colours.index, (c.colour, c.background))) for c in contents])


@cache
def load_oracle(path: Path = ORACLE_PATH) -> Oracle:
    """The trained oracle, frozen, in float32 on the CPU."""
    oracle = Oracle()
    oracle.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return oracle.eval().requires_grad_(False)


@torch.no_grad()
def recognise(images: Tensor, oracle: Oracle | None = None) -> Tensor:
    """(batch, 3) indices of the shape, colour and background that the oracle sees."""
    reader = oracle or load_oracle()
    heads = [reader(chunk) for chunk in images.detach().float().cpu().split(_BATCH)]
    return torch.cat([torch.stack([logits.argmax(1) for logits in head], 1) for head in heads])


def content_correct(images: Tensor, captions: Sequence[str], oracle: Oracle | None = None) -> Tensor:
    """1 where shape, colour and background are all as the caption says, else 0."""
    if len(images) != len(captions):
        raise ValueError(f"got {len(images)} images but {len(captions)} captions; give one caption per image")
    return (recognise(images, oracle) == content_labels(captions)).all(1).float()
