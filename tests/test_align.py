"""Direct-Align and the sigma grid (arXiv:2509.06942)."""

import pytest
import torch

from srpo.align import SigmaGrid, direct_align
from srpo.config import AlignConfig

PAIRS = [(0.95, 0.90), (0.90, 0.95), (0.3, 0.0), (0.98, 0.75)]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    x0, noise = torch.randn(2, 3, 4, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind(0)
    return x0, noise


@pytest.mark.parametrize(("sigma_from", "sigma_to"), PAIRS)
def test_the_true_velocity_recovers_the_image(sigma_from: float, sigma_to: float) -> None:
    x0, noise = batch()
    torch.testing.assert_close(direct_align(lambda x, s: noise - x0, x0, noise, sigma_from, sigma_to), x0)


@pytest.mark.parametrize(("sigma_from", "sigma_to"), PAIRS)
def test_sensitivity_to_the_velocity(sigma_from: float, sigma_to: float) -> None:
    x0, noise = batch()
    velocity = torch.randn_like(x0).requires_grad_()
    x0_hat = direct_align(lambda x, s: velocity, x0, noise, sigma_from, sigma_to)
    (gradient,) = torch.autograd.grad(x0_hat.sum(), velocity)
    torch.testing.assert_close(gradient, torch.full_like(x0, (sigma_to - sigma_from) / (1 - sigma_to)))


def test_a_batch_of_pairs_equals_the_pairs_alone() -> None:
    x0, noise = batch()
    starts, ends = torch.tensor([0.95, 0.7, 0.6]).double(), torch.tensor([0.9, 0.8, 0.5]).double()

    def velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x * sigma.reshape(-1, 1, 1, 1)

    together = direct_align(velocity, x0, noise, starts, ends)
    for i in range(3):
        one = slice(i, i + 1)
        torch.testing.assert_close(
            together[one], direct_align(velocity, x0[one], noise[one], float(starts[i]), float(ends[i]))
        )


def test_grid_is_the_reference_recipes() -> None:
    grid = SigmaGrid(AlignConfig())
    assert (grid.num_levels, grid.max_stride) == (1000, 100)
    assert [round(float(grid.sigmas[i]), 4) for i in (0, -1)] == [0.9643, 0.75]


@pytest.mark.parametrize("ratio_levels", [(0.9, 1000), (0.8, 500), (0.5, 40)])
def test_levels_follow_the_formula_at_every_position(ratio_levels: tuple[float, int]) -> None:
    ratio, levels = ratio_levels
    grid = SigmaGrid(AlignConfig(groundtruth_ratio=ratio, num_levels=levels))
    positions = torch.arange(5, levels - 4)
    denoise, inversion = grid.levels("denoise", positions), grid.levels("inversion", positions)
    for row, m in enumerate(positions.tolist()):
        n = min(int((1 - ratio) * levels) + 1, levels - m, m)
        assert denoise.sigma_from[row] == grid.sigmas[levels - m - n]
        assert denoise.sigma_to[row] == grid.sigmas[levels - m]
        assert denoise.index[row] == m
        lower = max(m - n, 1)
        assert inversion.sigma_from[row] == grid.sigmas[levels - lower]
        assert inversion.sigma_to[row] == grid.sigmas[levels - min(lower + n, levels)]
        assert inversion.index[row] == lower
    assert bool((denoise.sigma_from > denoise.sigma_to).all()), "denoising falls"
    assert bool((inversion.sigma_from < inversion.sigma_to).all()), "inversion rises"


def test_positions_are_uniform_with_both_ends() -> None:
    grid = SigmaGrid(AlignConfig(num_levels=20))
    drawn = grid.draw((40, 100), torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn.flatten(), minlength=21)
    assert counts[:5].sum() == 0 and counts[16:].sum() == 0
    assert counts[5:16].min() > 0.7 * 4000 / 11


@pytest.mark.parametrize(
    ("settings", "warning"),
    [
        ({"window": (1, 25)}, "above 0.99 training damages structure"),
        ({"window": (5, 40)}, "late steps invite hacks"),
    ],
)
def test_ranges_that_hurt_warn_with_the_reason(settings: dict[str, tuple[int, int]], warning: str) -> None:
    with pytest.warns(UserWarning, match=warning):
        AlignConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": (0, 25)}, "sigma 1, where Direct-Align divides by zero"),
        ({"window": (25, 5)}, "must be two rising steps"),
        ({"window": (5, 51)}, "must be two rising steps"),
        ({"branches": ()}, "at least 1 item"),
        ({"branches": ("denoise", "denoise")}, "names one twice"),
        ({"num_injections": -1}, "greater than 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlignConfig(**settings)
