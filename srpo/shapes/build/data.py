"""Batches of the Shapes world for trainings: random contents and style words, freshly rendered."""

from collections.abc import Sequence

import torch
from torch import Tensor

from srpo.shapes.render import AXES, STYLES, Content, render, styled

STYLED_SHARE = 0.5
"""Share of the captions that carry a style word."""


def scaled(count: int, scale: float) -> int:
    """A share of a training's steps or pictures, at least 2."""
    return max(2, round(count * scale))


def draw(contents: Sequence[Content], count: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
    """Pictures (count, 3, 32, 32) and their captions: contents uniform, half of them with a style word."""
    rows = torch.randint(len(contents), (count,), generator=generator).tolist()
    words = torch.randint(len(STYLES), (count,), generator=generator).tolist()
    plain = (torch.rand(count, generator=generator) >= STYLED_SHARE).tolist()
    styles = [None if skip else STYLES[word] for skip, word in zip(plain, words, strict=True)]
    chosen = [contents[row] for row in rows]
    captions = [styled(style, content.caption) for style, content in zip(styles, chosen, strict=True)]
    return render(chosen, styles, generator), captions


def draw_contrasts(contents: Sequence[Content], count: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
    """Pictures and captions in fours of one content: both words of an axis, a word of another axis, no word.

    Without such neighbours a batch seldom asks for more than the content, and a reward learns no style.
    """
    chosen, styles = [], []
    for row in torch.randint(len(contents), (count // 4,), generator=generator).tolist():
        first, second = torch.randperm(len(AXES), generator=generator)[:2].tolist()
        side = int(torch.randint(2, (), generator=generator))
        chosen += [contents[row]] * 4
        styles += [*list(AXES.values())[first], list(AXES.values())[second][side], None]
    captions = [styled(style, content.caption) for style, content in zip(styles, chosen, strict=True)]
    return render(chosen, styles, generator), captions
