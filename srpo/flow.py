"""Rectified flow in FLUX's and diffusers' convention (arXiv:2509.06942, section 3; arXiv:2403.03206).

`sigma = 1` is pure noise, `sigma = 0` the image; `x_sigma = (1 - sigma) * x0 + sigma * noise`; the model predicts
`velocity = noise - x0`. A sigma is a number, or a tensor with one level per sample.

A solver of `dx/dsigma = velocity(x, sigma)` says along which slope a step goes: `x + (sigma_next - sigma) * slope`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Literal

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


@dataclass(frozen=True)
class Point:
    """A place on the way from noise to image."""

    x: Tensor
    """(batch, ...)."""
    sigma: float
    velocity: Tensor
    """The model's, at x and sigma."""

    @property
    def x0(self) -> Tensor:
        """The clean latents behind it."""
        return self.x - self.sigma * self.velocity


VelocityAt = Callable[[Tensor, float], Tensor]
"""(x, one sigma for all samples) -> velocity."""
Slope = Callable[[VelocityAt, Point, Point | None, float], Tensor]
"""(velocity, this point, the one before, next sigma) -> slope of the step, like x."""
Solver = Literal["euler", "heun", "ab2", "dpmpp_2m"]


def euler(velocity: VelocityAt, here: Point, before: Point | None, sigma_next: float) -> Tensor:
    """Order 1: the velocity here."""
    return here.velocity


def heun(velocity: VelocityAt, here: Point, before: Point | None, sigma_next: float) -> Tensor:
    """Order 2: the mean of the velocities at both ends of the Euler step; the last step, onto the image, is Euler's."""
    if sigma_next == 0:
        return here.velocity
    ahead = velocity(euler_step(here.x, here.velocity, here.sigma, sigma_next), sigma_next)
    return (here.velocity + ahead) / 2


def ab2(velocity: VelocityAt, here: Point, before: Point | None, sigma_next: float) -> Tensor:
    """Order 2 (Adams-Bashforth): the velocity in the middle of the step, on a line through the last two."""
    if before is None:
        return here.velocity
    ratio = (sigma_next - here.sigma) / (here.sigma - before.sigma)
    return here.velocity + ratio / 2 * (here.velocity - before.velocity)


def dpmpp_2m(velocity: VelocityAt, here: Point, before: Point | None, sigma_next: float) -> Tensor:
    """Order 2 (DPM-Solver++(2M), arXiv:2211.01095): towards the x0 in the middle of the step, on a line over
    `log_snr` through the last two; Euler's steps where that is infinite, at sigma 1 and 0.
    """
    if before is None or before.sigma == 1 or sigma_next == 0:
        return here.velocity
    ratio = (log_snr(sigma_next) - log_snr(here.sigma)) / (log_snr(here.sigma) - log_snr(before.sigma))
    return (here.x - here.x0 - ratio / 2 * (here.x0 - before.x0)) / here.sigma


def log_snr(sigma: float) -> float:
    """Half the logarithm of the signal-to-noise ratio, `log((1 - sigma) / sigma)`."""
    return log((1 - sigma) / sigma)


SOLVERS: dict[Solver, Slope] = {"euler": euler, "heun": heun, "ab2": ab2, "dpmpp_2m": dpmpp_2m}


def num_evaluations(solver: Solver, num_steps: int) -> int:
    """How often the velocity is asked for in `num_steps` steps down to sigma 0."""
    return 2 * num_steps - 1 if solver == "heun" else num_steps


@torch.no_grad()
def integrate(velocity: VelocityFn, noise: Tensor, sigmas: Tensor, solver: Solver = "euler") -> Tensor:
    """From `noise` (batch, ...) along a descending schedule; the last sigma is usually 0."""

    def at(x: Tensor, sigma: float) -> Tensor:
        return velocity(x, torch.full((len(x),), sigma, device=x.device))

    x, before, slope = noise, None, SOLVERS[solver]
    for sigma, sigma_next in zip(sigmas.tolist()[:-1], sigmas.tolist()[1:], strict=True):
        here = Point(x, sigma, at(x, sigma))
        x = euler_step(x, slope(at, here, before, sigma_next), sigma, sigma_next)
        before = here
    return x
