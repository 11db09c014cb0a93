"""Everything random in training, drawn for a whole update at once.

Every process draws the same update and takes its own part of it, so that the images of an update do not depend on how
they are spread over processes and micro-batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from srpo.config import RunConfig


class Positions(Protocol):
    """What a method needs to know of each step with gradient: a place on the sigma grid, a step, a seed."""

    def draw(self, shape: Sequence[int], generator: Generator) -> Tensor:
        """Random integers of the given shape, on the CPU."""


@dataclass(frozen=True)
class Draw:
    """The random part of some images of an update."""

    prompts: list[int]
    """Index of each image's prompt."""
    noise: Tensor
    """(images, channels, h, w) on the CPU."""
    positions: Tensor
    """(num_injections, images) as the method draws them: for SRPO places on the sigma grid."""

    def part(self, start: int, count: int) -> "Draw":
        """`count` images from `start` on."""
        chosen = slice(start, start + count)
        return Draw(self.prompts[chosen], self.noise[chosen], self.positions[:, chosen])


class Draws:
    """Draws updates in order; its generator's state belongs into the checkpoint."""

    def __init__(self, config: RunConfig, positions: Positions, latent_shape: Sequence[int], num_prompts: int) -> None:
        self.config = config
        self.positions = positions
        self.latent_shape = latent_shape
        self.num_prompts = num_prompts
        self.generator = Generator().manual_seed(config.seed)

    def draw(self, update: int) -> Draw:
        """The next update's images; `update` counts from 1 and decides the prompts."""
        images = self.config.train.images_per_update
        shared = self.config.rollout.noise == "shared"
        noise = torch.randn(1 if shared else images, *self.latent_shape, generator=self.generator)
        positions = self.positions.draw((self.config.num_injections, images), self.generator)
        return Draw(
            prompt_order(self.num_prompts, self.config.seed, (update - 1) * images, images),
            noise.expand(images, *self.latent_shape),
            positions,
        )


def prompt_order(num_prompts: int, seed: int, start: int, count: int) -> list[int]:
    """`count` prompts from position `start` of an endless order: every epoch shuffles all prompts anew."""
    epochs = range(start // num_prompts, (start + count - 1) // num_prompts + 1)
    order = np.concatenate([np.random.default_rng([seed, epoch]).permutation(num_prompts) for epoch in epochs])
    offset = start - epochs[0] * num_prompts
    return [int(index) for index in order[offset : offset + count]]
