"""Rectified flow: identities in float64."""

from math import log2
from typing import get_args

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchHeunDiscreteScheduler
from torch import Tensor

from srpo.flow import (
    SOLVERS,
    Solver,
    add_noise,
    euler_step,
    integrate,
    num_evaluations,
    per_sample,
    shift_sigma,
    shifted_sigmas,
)

MEAN, SPREAD = 0.7, 0.4


def test_shift_keeps_the_ends_and_matches_the_published_window() -> None:
    sigmas = shifted_sigmas(50, 3.0)
    assert sigmas[0] == 1 and sigmas[-1] == 0 and len(sigmas) == 51
    assert bool((sigmas.diff() < 0).all())
    assert [round(float(sigmas[step]), 3) for step in (5, 25)] == [0.964, 0.75]


def test_shift_composes() -> None:
    sigma = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(shift_sigma(2.0, shift_sigma(1.5, sigma)), shift_sigma(3.0, sigma))
    torch.testing.assert_close(shift_sigma(1.0, sigma), sigma)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_true_velocity_is_integrated_exactly_whatever_the_steps(solver: Solver) -> None:
    x0, noise = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64).unbind(0)
    for num_steps in (1, 2, 7):
        recovered = integrate(lambda x, sigma: noise - x0, noise, shifted_sigmas(num_steps, 3.0).double(), solver)
        torch.testing.assert_close(recovered, x0)


def gaussian_velocity(x: Tensor, sigma: Tensor) -> Tensor:
    """`E[noise - x0 | x]` of data that are normal, N(MEAN, SPREAD^2); noise z flows to MEAN + SPREAD * z."""
    sigma = per_sample(sigma, x)
    variance = (1 - sigma) ** 2 * SPREAD**2 + sigma**2
    return (sigma - (1 - sigma) * SPREAD**2) / variance * (x - (1 - sigma) * MEAN) - MEAN


def gaussian_flow(noise: Tensor, sigma: Tensor) -> Tensor:
    """Where that velocity takes noise until `sigma`: to the same quantile of the data there."""
    return (1 - sigma) * MEAN + ((1 - sigma) ** 2 * SPREAD**2 + sigma**2).sqrt() * noise


@pytest.mark.parametrize(("first", "last", "slack"), [(0.95, 0.05, 0.05), (1.0, 0.0, 0.25)], ids=["inside", "whole"])
@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("ab2", 2), ("dpmpp_2m", 2)])
def test_twice_the_steps_divide_the_error_by_two_to_the_order(
    solver: Solver, order: int, first: float, last: float, slack: float
) -> None:
    """At the ends log_snr is infinite, so that dpmpp_2m comes to its order slowly there."""
    noise = torch.randn(4, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    errors = []
    for num_steps in (500, 1000):
        sigmas = last + (first - last) * shift_sigma(2.0, torch.linspace(1, 0, num_steps + 1, dtype=torch.float64))
        end = integrate(gaussian_velocity, gaussian_flow(noise, sigmas[0]), sigmas, solver)
        errors.append(float((end - gaussian_flow(noise, sigmas[-1])).norm()))
    assert log2(errors[0] / errors[1]) == pytest.approx(order, abs=slack)


@pytest.mark.parametrize("solver", ["heun", "ab2", "dpmpp_2m"])
def test_few_steps_of_order_two_are_nearer_than_as_many_forwards_of_euler(solver: Solver) -> None:
    noise = torch.randn(4, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    end = gaussian_flow(noise, torch.zeros(1, dtype=torch.float64))

    def error(solver: Solver, num_steps: int) -> float:
        sigmas = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
        return float((integrate(gaussian_velocity, noise, sigmas, solver) - end).norm())

    assert error(solver, 8) < error("euler", num_evaluations(solver, 8)) / 1.5


def test_dpmpp_2m_is_diffusers() -> None:
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, final_sigmas_type="zero"
    )
    scheduler.set_timesteps(8)
    x = noise = torch.randn(2, 10)
    for sigma, timestep in zip(scheduler.sigmas, scheduler.timesteps, strict=False):
        x = scheduler.step(gaussian_velocity(x, sigma), timestep, x).prev_sample
    torch.testing.assert_close(integrate(gaussian_velocity, noise, scheduler.sigmas, "dpmpp_2m"), x)


def test_heun_is_diffusers() -> None:
    scheduler = FlowMatchHeunDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(8)
    x = noise = torch.randn(2, 10)
    for timestep in scheduler.timesteps:
        x = scheduler.step(gaussian_velocity(x, timestep / 1000), timestep, x).prev_sample
    sigmas = torch.cat([scheduler.sigmas[:1], scheduler.sigmas[1::2]])
    torch.testing.assert_close(integrate(gaussian_velocity, noise, sigmas, "heun"), x)


@pytest.mark.parametrize("solver", get_args(Solver))
def test_forwards_are_as_many_as_announced(solver: Solver) -> None:
    asked: list[float] = []

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        asked.append(float(sigma[0]))
        return torch.zeros_like(x)

    integrate(velocity, torch.randn(2, 3), shifted_sigmas(6, 3.0), solver)
    assert len(asked) == num_evaluations(solver, 6) and min(asked) > 0


def test_each_sample_has_its_own_sigma() -> None:
    x0, noise = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64).unbind(0)
    sigma = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    for i in range(3):
        alone = add_noise(x0[i : i + 1], noise[i : i + 1], float(sigma[i]))
        torch.testing.assert_close(add_noise(x0, noise, sigma)[i : i + 1], alone)
    moved = euler_step(add_noise(x0, noise, sigma), noise - x0, sigma, sigma / 2)
    torch.testing.assert_close(moved, add_noise(x0, noise, sigma / 2))


@pytest.mark.parametrize("sigmas", [torch.linspace(1, 0.5, 4), torch.tensor([1.0, 0.0])])
def test_integration_evaluates_the_model_once_per_step_at_the_step_start(sigmas: Tensor) -> None:
    asked: list[float] = []

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        asked.extend(set(sigma.tolist()))
        return torch.zeros_like(x)

    integrate(velocity, torch.randn(2, 3), sigmas)
    assert asked == sigmas[:-1].tolist()
