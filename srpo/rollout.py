"""Where clean latents come from: sampled by the model itself, without gradient, from noise that is remembered.

In offline training (`srpo.images`) they are those of real images, and the noise is fresh.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srpo.flow import integrate
from srpo.models import Embeddings, TextToImage


@dataclass(frozen=True)
class Rollout:
    """Clean latents with the noise they started from (fresh noise for real images), and the prompts they show."""

    x0: Tensor
    """(batch, channels, h, w)."""
    noise: Tensor
    """Like x0; Direct-Align puts back this very noise."""
    embeddings: Embeddings
    prompts: list[str]


def sample(model: TextToImage, embeddings: Embeddings, noise: Tensor, sigmas: Tensor, guidance: float | None) -> Tensor:
    """Latents x0 (batch, channels, h, w) by Euler steps from `noise` along descending `sigmas`, without gradient."""
    return integrate(lambda x, sigma: model.velocity(x, sigma, embeddings, guidance), noise, sigmas)


def seeded_noise(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Normal noise (len(seeds), *shape) on the CPU: one generator per seed, so that batching changes nothing."""
    return torch.stack([torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
