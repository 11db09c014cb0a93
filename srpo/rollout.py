"""Where clean latents come from: sampled by the model itself, without gradient, from noise that is remembered.

In offline training (`srpo.images`) they are those of real images, and the noise is fresh.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from srpo.config import RolloutConfig, RunConfig
from srpo.config.method import SamplerMethod
from srpo.flow import Solver, integrate, num_evaluations, shifted_sigmas
from srpo.jitter import move
from srpo.models import Embeddings, TextToImage
from srpo.tuning import merged


@dataclass(frozen=True)
class Rollout:
    """Clean latents with the noise they started from (fresh noise for real images), and the prompts they show."""

    x0: Tensor
    """(batch, channels, h, w): clean, or where a method stops the rollout to go on with gradient."""
    noise: Tensor
    """Like x0; Direct-Align puts back this very noise."""
    embeddings: Embeddings
    prompts: list[str]
    moves: Tensor | None = None
    """(num_injections, batch, 2): pixels down and right that pictures are moved by before a reward sees them."""

    def moved(self, images: Tensor, injection: int) -> Tensor:
        """An injection's images (steps * batch, 3, height, width), step after step, as the rewards see them."""
        if self.moves is None:
            return images
        moves = self.moves[injection].tolist()
        return torch.stack([move(image, *moves[i % len(moves)]) for i, image in enumerate(images)])


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


@contextmanager
def tf32() -> Iterator[None]:
    """Float32 products and convolutions in TF32 on a GPU: eight times as fast, with three bits more than bf16.

    For pictures that are looked at or measured. Training and rewards, which have to be exact, do without.
    """
    backends: Any = torch.backends  # whose types leave out conv
    kinds = backends.cuda.matmul, backends.cudnn.conv
    before = [kind.fp32_precision for kind in kinds]
    for kind in kinds:
        kind.fp32_precision = "tf32"
    try:
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


def roll_out(
    model: TextToImage,
    embeddings: Embeddings,
    noise: Tensor,
    settings: RolloutConfig,
    sigmas: Tensor | None = None,
) -> Tensor:
    """Latents x0 like `noise` (batch, channels, h, w), sampled as the settings say.

    `sigmas`: their schedule, or a beginning of it, where a method takes over from there.
    """
    if sigmas is None:
        sigmas = shifted_sigmas(settings.num_steps, settings.shift)
    with ExitStack() as contexts:
        if settings.precision == "bf16":
            contexts.enter_context(torch.autocast(noise.device.type, torch.bfloat16))
        if settings.merge_lora:
            contexts.enter_context(merged(model.transformer))
        return sample(model, embeddings, noise, sigmas, settings.guidance, settings.solver)


def describe(config: RunConfig) -> str:
    """Evaluations of the model in a rollout, and which settings beside the recipe's are exact or lossy, for a plan."""
    if config.num_offline_updates == config.train.num_updates:
        return "none: all updates take images"
    settings, recipe = config.rollout, RolloutConfig()
    ends_early = isinstance(config.method, SamplerMethod)
    injections = 1 if ends_early else config.num_injections
    in_fp32 = config.model.weights == config.train.precision == "fp32" and settings.precision is None
    exact = {
        "merge_lora": settings.merge_lora and in_fp32,
        f"num_injections {injections}": injections > 1,
    }
    lossy = {
        f"num_steps {settings.num_steps} for {recipe.num_steps}": settings.num_steps < recipe.num_steps,
        f"solver {settings.solver} for {recipe.solver}": settings.solver != recipe.solver,
        "precision bf16 for fp32": settings.precision == "bf16",
        "merge_lora rounded to bf16": settings.merge_lora and not in_fp32,
        f"reuse for {settings.reuse} updates": settings.reuse > 1,
    }
    evaluations = num_evaluations(settings.solver, settings.num_steps) / settings.reuse
    findings = [f"{'at most ' if ends_early else ''}{evaluations:g} evaluations per image and update"]
    for kind, levers in (("exact", exact), ("lossy", lossy)):
        if chosen := [name for name, holds in levers.items() if holds]:
            findings.append(f"{kind}: {', '.join(chosen)}")
    return "; ".join(findings)


def seeded_noise(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Normal noise (len(seeds), *shape) on the CPU: one generator per seed, so that batching changes nothing."""
    return torch.stack([torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
