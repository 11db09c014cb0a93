"""Rectified flow in FLUX's and diffusers' convention (arXiv:2509.06942, section 3; arXiv:2403.03206).

`sigma = 1` is pure noise, `sigma = 0` the image; `x_sigma = (1 - sigma) * x0 + sigma * noise`; the model predicts
`velocity = noise - x0`. A sigma is a number, or a tensor with one level per sample.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Sigma = float | Tensor
"""One noise level for all samples, or a (batch,) tensor."""
VelocityFn = Callable[[Tensor, Tensor], Tensor]
"""(x, sigma of shape (batch,)) -> velocity; prompts and guidance are already bound."""


def shift_sigma(shift: float, sigma: Tensor) -> Tensor:
    """`s * t / (1 + (s - 1) * t)`: FLUX's schedule shift, which keeps 0 and 1 and spends more steps on noise."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def shifted_sigmas(num_steps: int, shift: float) -> Tensor:
    """Descending schedule of `num_steps + 1` sigmas from 1 to 0."""
    return shift_sigma(shift, torch.linspace(1, 0, num_steps + 1))


def per_sample(sigma: Sigma, x: Tensor) -> Tensor:
    """A sigma as a tensor that broadcasts over `x` (batch, ...)."""
    level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
    return level.reshape(-1, *[1] * (x.ndim - 1))


def add_noise(x0: Tensor, noise: Tensor, sigma: Sigma) -> Tensor:
    """`(1 - sigma) * x0 + sigma * noise`."""
    level = per_sample(sigma, x0)
    return (1 - level) * x0 + level * noise


def euler_step(x: Tensor, velocity: Tensor, sigma: Sigma, sigma_next: Sigma) -> Tensor:
    """`x + (sigma_next - sigma) * velocity`."""
    return x + (per_sample(sigma_next, x) - per_sample(sigma, x)) * velocity


@torch.no_grad()
def integrate(velocity: VelocityFn, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Euler integration from `noise` (batch, ...) along a descending schedule; the last sigma is usually 0."""
    x = noise
    for sigma, sigma_next in zip(sigmas.tolist()[:-1], sigmas.tolist()[1:], strict=True):
        x = euler_step(x, velocity(x, torch.full((len(x),), sigma, device=x.device)), sigma, sigma_next)
    return x
