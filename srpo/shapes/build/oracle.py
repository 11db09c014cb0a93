"""Trains the oracle: it must stay right on pictures that an aligned, even a damaged, model makes."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from srpo.meters import luma
from srpo.shapes.build.data import draw, scaled
from srpo.shapes.build.descent import optimise
from srpo.shapes.measure import Oracle, content_correct, content_labels
from srpo.shapes.render import CONTENTS, Content, blur, render, texture_pattern

NUM_STEPS = 1200
BATCH = 128
LEARNING_RATE = 3e-3
EMA_DECAY = 0.99


def train_oracle(seed: int, scale: float) -> Oracle:
    """A trained oracle; it sees all contents, because it measures and is never a reward."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 3)
    oracle = Oracle().train()
    optimizer = torch.optim.AdamW(oracle.parameters(), LEARNING_RATE, weight_decay=0.01)

    def loss() -> Tensor:
        images, captions = draw(CONTENTS, BATCH, generator)
        heads = oracle(distort(images, generator))
        labels = content_labels(captions)
        losses = [cross_entropy(head, label, label_smoothing=0.02) for head, label in zip(heads, labels.T, strict=True)]
        return torch.stack(losses).sum()

    optimise("oracle", oracle, loss, scaled(NUM_STEPS, scale), optimizer, EMA_DECAY)
    return oracle.eval().requires_grad_(False)


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, saturation, blur, texture and noise, each in half of the pictures."""

    def amount(low: float, high: float, neutral: float) -> Tensor:
        values = low + (high - low) * torch.rand(len(images), generator=generator)
        used = torch.rand(len(images), generator=generator) < 0.5
        return torch.where(used, values, neutral).reshape(-1, 1, 1, 1)

    grey = luma(images)
    images = grey + amount(0.5, 2.0, 1.0) * (images - grey)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + amount(0.5, 1.3, 1.0) * (images - mean) + amount(-0.25, 0.3, 0.0)
    images = blur(images + amount(0.0, 0.15, 0.0) * texture_pattern(), amount(0.0, 1.2, 0.0).flatten())
    return (images + amount(0.0, 0.08, 0.0) * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def oracle_figures(oracle: Oracle, contents: Sequence[Content], repeats: int = 10) -> dict[str, float]:
    """Share of real and of distorted pictures read right."""
    generator = torch.Generator().manual_seed(96)
    chosen = list(contents) * repeats
    captions = [content.caption for content in chosen]
    images = render(chosen, [None] * len(chosen), generator)
    return {
        "real": float(content_correct(images, captions, oracle).mean()),
        "distorted": float(content_correct(distort(images, generator), captions, oracle).mean()),
    }
