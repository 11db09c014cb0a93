"""The Shapes world: captions, and the 32x32 pictures that they describe.

A content is a shape, its colour and another colour behind it: 5 x 6 x 5 = 150 contents, 30 of them held out from every
training. A picture is built from a mean luminance Y, a contrast c, a saturation s and a texture, all drawn per picture:

    pure  = background hue, covered by the object's hue          (hues at full saturation)
    image = blur(Y + c * (luma(pure) - mean luma(pure)) + s * (pure - luma(pure)) + texture), clamped to [0, 1]

so `Y` is the picture's luminance and `s` its saturation (max - min over RGB), exactly where nothing is clamped. A style
word in front of a caption ("Bright. a red circle on a blue background") narrows one of these draws.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from srpo.meters import luma

SIZE = 32
SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLOURS = {"red": 0, "yellow": 60, "green": 120, "cyan": 180, "blue": 240, "purple": 300}
"""Colour word -> hue in degrees."""
TEXTURE_PERIOD = 8
"""Pixels: two of the VAE's 4x4 cells. Shorter periods, or dots that lie differently in every picture, vanish in it."""

AXES = {
    "luminance": ("Dark", "Bright"),
    "saturation": ("Pale", "Vivid"),
    "texture": ("Flat", "Textured"),
    "sharpness": ("Blurry", "Sharp"),
}
"""Measured attribute -> the word that lowers it, the word that raises it."""
STYLES = tuple(word for pair in AXES.values() for word in pair)

NATURAL = {"luminance": (0.17, 0.79), "saturation": (0.30, 0.60), "texture": (0.0, 0.05), "blur": (0.5, 1.0)}
"""Attribute -> range of a picture whose caption has no word for it (uniform; blur is a Gaussian's sigma in pixels)."""
STYLED = {
    "Dark": ("luminance", (0.14, 0.28)),
    "Bright": ("luminance", (0.62, 0.78)),
    "Pale": ("saturation", (0.12, 0.22)),
    "Vivid": ("saturation", (0.65, 0.85)),
    "Flat": ("texture", (0.0, 0.005)),
    "Textured": ("texture", (0.10, 0.16)),
    "Blurry": ("blur", (1.5, 2.1)),
    "Sharp": ("blur", (0.0, 0.2)),
}
"""Style word -> the attribute that it narrows, and the range."""

RADIUS = (7.5, 10.0)
OFFSET = (-2.0, 2.0)
CONTRAST = (0.3, 0.6)
HUE_JITTER = (-8.0, 8.0)


@dataclass(frozen=True)
class Content:
    """What a picture shows; `caption` says it in words."""

    shape: str
    colour: str
    background: str

    @property
    def caption(self) -> str:
        """For instance "a red circle on a blue background"."""
        return f"a {self.colour} {self.shape} on a {self.background} background"


def _held_out_shape(colour: int, background: int) -> int:
    """The shape that this pair of colours is never trained with: the round in which two of six players meet."""
    if max(colour, background) == 5:
        return 2 * min(colour, background) % 5
    return (colour + background) % 5


CONTENTS = tuple(Content(s, c, b) for s, c, b in product(SHAPES, COLOURS, COLOURS) if c != b)
HELD_OUT = tuple(
    content
    for content in CONTENTS
    if SHAPES[_held_out_shape(list(COLOURS).index(content.colour), list(COLOURS).index(content.background))]
    == content.shape
)
"""Thirty contents: each pair of colours once, each shape once with every colour and once with every background."""
SEEN = tuple(content for content in CONTENTS if content not in set(HELD_OUT))

_CAPTION = re.compile(rf"(?:(?:{'|'.join(STYLES)})\. )?a (\w+) (\w+) on a (\w+) background")
_BY_CAPTION = {content.caption: content for content in CONTENTS}


def styled(word: str | None, caption: str) -> str:
    """The caption with a style word in front, or as it is."""
    return f"{word}. {caption}" if word else caption


def parse_caption(caption: str) -> Content:
    """The content of a caption, whatever style word stands in front of it; ValueError for anything else."""
    match = _CAPTION.fullmatch(caption.strip())
    content = match and _BY_CAPTION.get("a {} {} on a {} background".format(*match.groups()))
    if not content:
        raise ValueError(
            f"{caption!r} is not a caption of the Shapes world; write one like 'a red circle on a blue background', "
            f"with a shape of {list(SHAPES)} and two different colours of {list(COLOURS)}"
        )
    return content


def pure_colour(hue: Tensor) -> Tensor:
    """Hue in degrees, (batch,) -> RGB (batch, 3, 1, 1) of full value and saturation, as HSV defines it."""
    sector = hue[:, None] / 60 + hue.new_tensor([0.0, 4.0, 2.0])
    return ((sector % 6 - 3).abs() - 1).clamp(0, 1)[:, :, None, None]


def _circle(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    return torch.hypot(x, y) - radius


def _square(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - radius * math.sqrt(math.pi / 4)


def _triangle(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    inner = radius * math.sqrt(math.pi / (3 * math.sqrt(3)))
    down = y - inner / 2  # from the centroid; the box around the triangle is centred
    return torch.maximum(down, (x.abs() * math.sqrt(3) - down) / 2) - inner


def _cross(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    length = radius * math.sqrt(9 * math.pi / 20)
    bars = [torch.maximum(a.abs() - length, b.abs() - length / 3) for a, b in ((x, y), (y, x))]
    return torch.minimum(*bars)


def _ring(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    outer = radius * math.sqrt(4 / 3)
    return (torch.hypot(x, y) - 0.75 * outer).abs() - 0.25 * outer


_DISTANCE: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
}
"""Shape -> signed distance to its edge in pixels, negative inside; every shape has the area pi * radius**2."""


def coverage(shapes: Sequence[str], x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Share of every pixel that the shape covers, (batch, 1, SIZE, SIZE); centres (x, y) and radius in pixels."""
    axis = torch.arange(SIZE, dtype=radius.dtype) - (SIZE - 1) / 2
    covered = torch.empty(len(shapes), 1, SIZE, SIZE, dtype=radius.dtype)
    for shape in set(shapes):
        rows = [index for index, name in enumerate(shapes) if name == shape]
        dx, dy = (axis - x[rows, None])[:, None, :], (axis - y[rows, None])[:, :, None]
        distance = _DISTANCE[shape](dx.expand(-1, SIZE, -1), dy.expand(-1, -1, SIZE), radius[rows, None, None])
        covered[rows, 0] = (0.5 - distance).clamp(0, 1)
    return covered


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a sigma of its own for every image (pixels); weights are renormalised at the border."""
    height, width = images.shape[-2:]
    return _blur_matrix(height, sigma) @ images @ _blur_matrix(width, sigma).mT


def _blur_matrix(size: int, sigma: Tensor) -> Tensor:
    axis = torch.arange(size, dtype=sigma.dtype)
    exponent = ((axis[:, None] - axis) / sigma.clamp(min=0.05)[:, None, None]) ** 2 / 2
    return torch.softmax(-exponent, dim=-1)[:, None]


def texture_pattern() -> Tensor:
    """Light and dark dots of amplitude 1 in turn, one in the middle of every 4x4 cell: (SIZE, SIZE)."""
    wave = torch.cos(2 * math.pi * (torch.arange(SIZE) - 1.5) / TEXTURE_PERIOD)
    return wave[:, None] * wave


def _draw_attributes(styles: Sequence[str | None], generator: torch.Generator) -> dict[str, Tensor]:
    """Attribute -> (batch, 1, 1, 1) values: natural ones, narrowed where a picture's style word says so."""
    for word in set(styles) - {None}:
        if word not in STYLED:
            raise ValueError(f"no style word {word!r} in the Shapes world; choose from {list(STYLES)} or None")
    drawn = {}
    for name, natural in NATURAL.items():
        words = [STYLED.get(word or "", ("", natural)) for word in styles]
        low, high = torch.tensor([limits if axis == name else natural for axis, limits in words]).T
        drawn[name] = (low + (high - low) * torch.rand(len(styles), generator=generator)).reshape(-1, 1, 1, 1)
    return drawn


def render(contents: Sequence[Content], styles: Sequence[str | None], generator: torch.Generator) -> Tensor:
    """Pictures of the contents in the styles (a style word or None each): (batch, 3, SIZE, SIZE) in [0, 1]."""
    if len(contents) != len(styles):
        raise ValueError(f"got {len(contents)} contents but {len(styles)} styles; give one style (or None) per content")

    def uniform(limits: tuple[float, float]) -> Tensor:
        return torch.empty(len(contents)).uniform_(*limits, generator=generator)

    def hue(names: list[str]) -> Tensor:
        return torch.tensor([float(COLOURS[name]) for name in names]) + uniform(HUE_JITTER)

    attributes = _draw_attributes(styles, generator)
    covered = coverage([content.shape for content in contents], uniform(OFFSET), uniform(OFFSET), uniform(RADIUS))
    behind = pure_colour(hue([content.background for content in contents]))
    pure = behind + covered * (pure_colour(hue([content.colour for content in contents])) - behind)
    brightness = luma(pure)
    relief = brightness - brightness.mean((2, 3), keepdim=True)
    texture = attributes["texture"] * texture_pattern()
    contrast = uniform(CONTRAST).reshape(-1, 1, 1, 1)
    image = attributes["luminance"] + contrast * relief + attributes["saturation"] * (pure - brightness) + texture
    return blur(image, attributes["blur"].flatten()).clamp(0, 1)
