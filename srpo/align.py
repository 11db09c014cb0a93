"""Direct-Align (arXiv:2509.06942): the clean image behind any noise level, in one model step.

    x      = (1 - s) * x0 + s * noise
    x      = x + (e - s) * velocity(x, s)
    x0_hat = (x - e * noise) / (1 - e)

The true velocity recovers x0 for every pair (s, e). Falling sigma (e < s) is the denoise branch, rising sigma the
inversion branch: one formula, whose gradients with respect to the velocity, (e - s) / (1 - e), have opposite signs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from srpo.config import AlignConfig
from srpo.flow import Sigma, VelocityFn, add_noise, euler_step, per_sample, shifted_sigmas


def direct_align(velocity: VelocityFn, x0: Tensor, noise: Tensor, sigma_from: Sigma, sigma_to: Sigma) -> Tensor:
    """One step with gradient from `sigma_from` to `sigma_to`, then exact recovery.

    `x0`, `noise`: (batch, ...); the sigmas: numbers or (batch,) tensors, `sigma_to` below 1. Returns x0_hat like x0.
    """
    sigma_from = torch.as_tensor(sigma_from, dtype=x0.dtype, device=x0.device).expand(len(x0))
    x = add_noise(x0, noise, sigma_from)
    x = euler_step(x, velocity(x, sigma_from), sigma_from, sigma_to)
    level = per_sample(sigma_to, x)
    return (x - level * noise) / (1 - level)


@dataclass(frozen=True)
class Step:
    """The model's one step with gradient, for a batch."""

    name: str
    """What its numbers are recorded under."""
    sigma_from: Tensor
    """(batch,) noise level that the model is asked at."""
    sigma_to: Tensor
    """(batch,) noise level that it steps to."""


@dataclass(frozen=True)
class Levels:
    """Noise levels of one branch, one entry per sample: (batch,) tensors."""

    sigma_from: Tensor
    sigma_to: Tensor
    index: Tensor
    """Position that the strength k is read at; it counts from the clean end of the grid."""


class SigmaGrid:
    """The reference recipe's noise levels: `num_levels` sigmas, evenly spaced over the trained window.

    A position m counts from the clean end: sigma = sigmas[num_levels - m].
    """

    FIRST = 5  # positions are drawn from 5..num_levels - 5, both ends included

    def __init__(self, config: AlignConfig) -> None:
        schedule = shifted_sigmas(config.grid_steps, config.shift)
        first, last = config.window
        self.num_levels = config.num_levels
        self.sigmas = torch.linspace(float(schedule[first]), float(schedule[last]), config.num_levels)
        self.max_stride = int((1 - config.groundtruth_ratio) * config.num_levels) + 1

    def draw(self, shape: Sequence[int], generator: Generator) -> Tensor:
        """Random positions m of the given shape, on the CPU."""
        return torch.randint(self.FIRST, self.num_levels - self.FIRST + 1, tuple(shape), generator=generator)

    def levels(self, branch: str, position: Tensor) -> Levels:
        """The noise levels of `denoise` or `inversion` at positions m (batch,)."""
        return self.denoise(position) if branch == "denoise" else self.inversion(position)

    def denoise(self, position: Tensor) -> Levels:
        """From `stride` points noisier down to m."""
        stride = self._stride(position)
        start = self.num_levels - position
        return Levels(self.sigmas[start - stride], self.sigmas[start], position)

    def inversion(self, position: Tensor) -> Levels:
        """From `stride` points cleaner up to m, or to one stride above the clean end where m is small."""
        stride = self._stride(position)
        lower = (position - stride).clamp(min=1)
        upper = lower + stride
        return Levels(self.sigmas[self.num_levels - lower], self.sigmas[self.num_levels - upper], lower)

    def _stride(self, position: Tensor) -> Tensor:
        """How far the model steps: capped, so that the known noise covers the rest, and inside the grid."""
        cap = torch.full_like(position, self.max_stride)
        return torch.minimum(torch.minimum(cap, self.num_levels - position), position)
