"""Rectified flow: identities in float64."""

import pytest
import torch

from srpo.flow import add_noise, euler_step, integrate, shift_sigma, shifted_sigmas


def test_shift_keeps_the_ends_and_matches_the_published_window() -> None:
    sigmas = shifted_sigmas(50, 3.0)
    assert sigmas[0] == 1 and sigmas[-1] == 0 and len(sigmas) == 51
    assert bool((sigmas.diff() < 0).all())
    assert [round(float(sigmas[step]), 3) for step in (5, 25)] == [0.964, 0.75]


def test_shift_composes() -> None:
    sigma = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(shift_sigma(2.0, shift_sigma(1.5, sigma)), shift_sigma(3.0, sigma))
    torch.testing.assert_close(shift_sigma(1.0, sigma), sigma)


def test_a_true_velocity_is_integrated_exactly_whatever_the_steps() -> None:
    x0, noise = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64).unbind(0)
    for num_steps in (1, 7):
        recovered = integrate(lambda x, sigma: noise - x0, noise, shifted_sigmas(num_steps, 3.0).double())
        torch.testing.assert_close(recovered, x0)


def test_each_sample_has_its_own_sigma() -> None:
    x0, noise = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64).unbind(0)
    sigma = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    for i in range(3):
        alone = add_noise(x0[i : i + 1], noise[i : i + 1], float(sigma[i]))
        torch.testing.assert_close(add_noise(x0, noise, sigma)[i : i + 1], alone)
    moved = euler_step(add_noise(x0, noise, sigma), noise - x0, sigma, sigma / 2)
    torch.testing.assert_close(moved, add_noise(x0, noise, sigma / 2))


@pytest.mark.parametrize("sigmas", [torch.linspace(1, 0.5, 4), torch.tensor([1.0, 0.0])])
def test_integration_evaluates_the_model_once_per_step_at_the_step_start(sigmas: torch.Tensor) -> None:
    asked: list[float] = []

    def velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        asked.extend(set(sigma.tolist()))
        return torch.zeros_like(x)

    integrate(velocity, torch.randn(2, 3), sigmas)
    assert asked == sigmas[:-1].tolist()
