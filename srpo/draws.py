"""Everything random in training, drawn for a whole update at once.

Every process draws the same update and takes its own part of it, so that the images of an update do not depend on how
they are spread over processes and micro-batches. (A micro-batch of real images has one shape, so these do depend on its
size.)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
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
    """Index of each image's prompt, or of each real image."""
    noise: Tensor
    """(images, channels, h, w) on the CPU."""
    positions: Tensor
    """(num_injections, images) as the method draws them: for SRPO places on the sigma grid."""
    moves: Tensor | None = None
    """(num_injections, images, 2): pixels down and right that each picture is moved by; None where none is."""
    offline: bool = False
    """Whether the images are real ones."""

    def part(self, start: int, count: int) -> "Draw":
        """`count` images from `start` on."""
        chosen = slice(start, start + count)
        moves = None if self.moves is None else self.moves[:, chosen]
        return Draw(self.prompts[chosen], self.noise[chosen], self.positions[:, chosen], moves)


@dataclass(frozen=True)
class Shelf:
    """Real images whose latents have one shape."""

    latent_shape: Sequence[int]
    """(channels, h, w)."""
    images: Sequence[int]
    """By their index."""


class Draws:
    """Draws updates in order; its generator's state belongs into the checkpoint."""

    def __init__(
        self,
        config: RunConfig,
        positions: Positions,
        latent_shape: Sequence[int],
        num_prompts: int,
        shelves: Sequence[Shelf] = (),
    ) -> None:
        self.config = config
        self.positions = positions
        self.latent_shape = latent_shape
        self.num_prompts = num_prompts
        self.shelves = shelves
        self.generator = Generator().manual_seed(config.seed)
        self.noise = torch.empty(0)
        """Of the last rollouts; belongs into the checkpoint where `rollout.reuse` needs it again."""

    def fresh(self, update: int) -> bool:
        """Whether an update has rollouts of its own."""
        return self._since_rollouts(update) % self.config.rollout.reuse == 0

    def _since_rollouts(self, update: int) -> int:
        """Updates between the first with rollouts and this one."""
        return update - 1 - self.config.num_offline_updates

    def draw(self, update: int) -> list[Draw]:
        """The next update's micro-batches, of all processes; `update` counts from 1 and decides the prompts."""
        if update <= self.config.num_offline_updates:
            return self._real_images(update)
        size, images = self.config.train.batch_size, self.config.train.images_per_update
        whole = self._rollouts(update, images)
        return [whole.part(start, size) for start in range(0, images, size)]

    def _real_images(self, update: int) -> list[Draw]:
        """Images of one shape in each micro-batch, every one with noise of its own."""
        size, injections = self.config.train.batch_size, self.config.num_injections
        batches = self.config.train.images_per_update // size
        numbers = [len(shelf.images) for shelf in self.shelves]
        draws = []
        for number, places in shelf_order(numbers, size, self.config.seed, (update - 1) * batches, batches):
            shelf = self.shelves[number]
            noise = torch.randn(size, *shelf.latent_shape, generator=self.generator)
            positions = self.positions.draw((injections, size), self.generator)
            chosen = [shelf.images[place] for place in places]
            draws.append(Draw(chosen, noise, positions, self._moves(size), offline=True))
        return draws

    def _rollouts(self, update: int, images: int) -> Draw:
        """All images of an update, in one."""
        if self.fresh(update):
            shared = self.config.rollout.noise == "shared"
            self.noise = torch.randn(1 if shared else images, *self.latent_shape, generator=self.generator)
        start = self._since_rollouts(update) // self.config.rollout.reuse * images
        positions = self.positions.draw((self.config.num_injections, images), self.generator)
        return Draw(
            endless_order(self.num_prompts, [self.config.seed], start, images),
            self.noise.expand(images, *self.latent_shape),
            positions,
            self._moves(images),
        )

    def _moves(self, images: int) -> Tensor | None:
        """Up to `train.jitter` pixels either way; nothing is drawn without it."""
        most = self.config.train.jitter
        shape = self.config.num_injections, images, 2
        return torch.randint(-most, most + 1, shape, generator=self.generator) if most else None


def endless_order(size: int, seeds: Sequence[int], start: int, count: int) -> list[int]:
    """`count` of `size` things from position `start` of an endless order: every epoch shuffles all of them anew."""
    epochs = range(start // size, (start + count - 1) // size + 1)
    order = np.concatenate([np.random.default_rng([*seeds, epoch]).permutation(size) for epoch in epochs])
    offset = start - epochs[0] * size
    return [int(index) for index in order[offset : offset + count]]


def shelf_order(
    sizes: Sequence[int], batch_size: int, seed: int, start: int, count: int
) -> Iterator[tuple[int, list[int]]]:
    """`count` micro-batches from position `start` of an endless order, as (shelf, places on it).

    An epoch has as many micro-batches of each shelf as hold all of its images, in shuffled order. Where the last one
    of a shelf is not full, its next epoch's images follow, so that all of a shelf are drawn equally often.
    """
    slots = [(shelf, slot) for shelf, size in enumerate(sizes) for slot in range(ceil(size / batch_size))]
    for position, index in enumerate(endless_order(len(slots), [seed, 1], start, count), start):
        shelf, slot = slots[index]
        earlier = position // len(slots) * ceil(sizes[shelf] / batch_size)
        yield shelf, endless_order(sizes[shelf], [seed, 2, shelf], (earlier + slot) * batch_size, batch_size)
