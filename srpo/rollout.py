"""Where clean latents come from: sampled by the model itself, without gradient, from noise that is remembered."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srpo.flow import integrate
from srpo.models import Embeddings, TextToImage


@dataclass(frozen=True)
class Rollout:
    """Clean latents with the noise they started from, and the prompts they show."""

    x0: Tensor
    """(batch, channels, h, w): clean, or where a method stops the rollout to go on with gradient."""
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
