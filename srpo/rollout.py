"""Where clean latents come from: sampled by the model itself, without gradient, from noise that is remembered."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srpo.config import RolloutConfig, RunConfig
from srpo.flow import Solver, integrate, num_evaluations
from srpo.models import Embeddings, TextToImage


@dataclass(frozen=True)
class Rollout:
    """Clean latents with the noise they started from, and the prompts they show."""

    x0: Tensor
    """(batch, channels, h, w)."""
    noise: Tensor
    """Like x0; Direct-Align puts back this very noise."""
    embeddings: Embeddings
    prompts: list[str]


def sample(
    model: TextToImage,
    embeddings: Embeddings,
    noise: Tensor,
    sigmas: Tensor,
    guidance: float | None,
    solver: Solver = "euler",
) -> Tensor:
    """Latents x0 (batch, channels, h, w) from `noise` along descending `sigmas`, without gradient."""
    return integrate(lambda x, sigma: model.velocity(x, sigma, embeddings, guidance), noise, sigmas, solver)


def describe(config: RunConfig) -> str:
    """Forwards of a rollout, and what of its settings is exact or lossy beside the recipe, for a plan."""
    settings, recipe = config.rollout, RolloutConfig()
    forwards = num_evaluations(settings.solver, settings.num_steps) / settings.reuse
    lossy = {
        f"num_steps {settings.num_steps} for {recipe.num_steps}": settings.num_steps < recipe.num_steps,
        f"solver {settings.solver} for {recipe.solver}": settings.solver != recipe.solver,
        "precision bf16 for fp32": settings.precision == "bf16" and config.train.precision == "fp32",
        f"reuse for {settings.reuse} updates": settings.reuse > 1,
    }
    kinds = {"exact": ["merge_lora"] if settings.merge_lora else [], "lossy": [name for name in lossy if lossy[name]]}
    found = [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names]
    return "; ".join([f"{forwards:g} forwards per image and update", *found])


def seeded_noise(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Normal noise (len(seeds), *shape) on the CPU: one generator per seed, so that batching changes nothing."""
    return torch.stack([torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
