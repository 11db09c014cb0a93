"""The meters against pictures whose values are known."""

from itertools import pairwise
from math import cos, pi, sqrt

import pytest
import torch
from torchvision.transforms.v2.functional import gaussian_blur

from srpo.meters import (
    METERS,
    clipped,
    colourfulness,
    grid,
    high_frequency,
    luminance,
    meters,
    saturation,
    sharpness,
)
from srpo.shapes.render import HELD_OUT, render


def plain(*rgb: float) -> torch.Tensor:
    return torch.tensor(rgb, dtype=torch.float32).reshape(1, 3, 1, 1).expand(1, 3, 16, 16)


def test_luminance_of_the_primaries_is_their_weight() -> None:
    images = torch.cat([plain(1, 0, 0), plain(0, 1, 0), plain(0, 0, 1), plain(1, 1, 1)])
    torch.testing.assert_close(luminance(images), torch.tensor([0.2126, 0.7152, 0.0722, 1.0]))


def test_saturation_is_the_range_over_the_channels_and_ignores_brightness() -> None:
    images = torch.cat([plain(0.5, 0.5, 0.5), plain(0.7, 0.2, 0.4), plain(0.8, 0.3, 0.5)])
    torch.testing.assert_close(saturation(images), torch.tensor([0.0, 0.5, 0.5]))


def test_clipped_counts_only_values_at_the_ends() -> None:
    images = torch.full((1, 3, 4, 4), 0.5)
    images[0, 0, 0] = 1.0  # 4 of 48 values
    images[0, 1, 0, :2] = 0.0  # 2 more
    images[0, 2, 0, 0] = 0.999
    torch.testing.assert_close(clipped(images), torch.tensor([6 / 48]))


def test_sharpness_is_half_for_an_edge_a_quarter_for_a_ramp_and_one_for_noise() -> None:
    edge = torch.zeros(1, 3, 64, 64)
    edge[..., 30:] = 1
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    values = sharpness(torch.cat([edge, ramp, noise]))
    torch.testing.assert_close(values, torch.tensor([0.5, 0.25, 1.0]), atol=0.02, rtol=0)


def test_sharpness_does_not_depend_on_contrast_and_survives_a_plain_area() -> None:
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sharpness(images), sharpness(0.3 * images + 0.2))
    assert sharpness(plain(0.3, 0.3, 0.3)).item() == 0


def rendered(style: str = "Sharp") -> torch.Tensor:
    """Pictures of the Shapes world, enlarged so that periods of 16 fit in them."""
    contents = HELD_OUT[:12]
    images = render(contents, [style] * len(contents), torch.Generator().manual_seed(0))
    return images.repeat_interleave(4, -1).repeat_interleave(4, -2)


def wave(period: float, size: int = 64, axis: int = -1) -> torch.Tensor:
    values = torch.tensor([0.5 + 0.25 * cos(2 * pi * x / period) for x in range(size)])
    return (values if axis == -1 else values[:, None]).expand(1, 3, size, size)


def with_lines(images: torch.Tensor, period: int, strength: float = 0.1) -> torch.Tensor:
    """A drawn grid: each `period`-th row and column a little lighter."""
    drawn = images.clone()
    drawn[..., ::period] += strength
    drawn[..., ::period, :] += strength
    return drawn


def test_colourfulness_of_a_colour_and_of_two() -> None:
    red = plain(1, 0, 0)  # rg = 1, yb = 1/2 everywhere
    halves = plain(1, 0, 0).clone()
    halves[..., 8:] = plain(0, 1, 0)[..., 8:]  # rg is 1 and -1, yb 1/2
    expected = torch.tensor([0.3 * sqrt(1.25), 1 + 0.3 * 0.5, 0.0])
    torch.testing.assert_close(colourfulness(torch.cat([red, halves, plain(0.4, 0.4, 0.4)])), expected)


def test_high_frequency_is_the_share_of_waves_shorter_than_four_pixels() -> None:
    images = torch.cat([wave(8), wave(3.2), (wave(8) + wave(3.2)) / 2, plain_of(64)])
    torch.testing.assert_close(high_frequency(images), torch.tensor([0.0, 1.0, 0.5, 0.0]), atol=1e-3, rtol=0)


def plain_of(size: int) -> torch.Tensor:
    return torch.full((1, 3, size, size), 0.3)


@pytest.mark.parametrize("name", ["sharpness", "high_frequency"])
def test_blur_lowers_sharpness_and_high_frequencies(name: str) -> None:
    images = rendered("Textured")
    values = [METERS[name](images), *(METERS[name](gaussian_blur(images, 15, [sigma])) for sigma in (0.7, 1.0, 1.5))]
    assert all((after < before).all() for before, after in pairwise(values))


@pytest.mark.parametrize("name", ["colourfulness", "saturation"])
def test_fading_to_grey_lowers_colour(name: str) -> None:
    images = rendered()
    grey = images.mean(1, keepdim=True)
    values = [METERS[name](grey + share * (images - grey)) for share in (1.0, 0.7, 0.4, 0.0)]
    assert all((after < before).all() for before, after in pairwise(values))
    torch.testing.assert_close(values[1], 0.7 * values[0])


def test_overexposure_clips_and_noise_is_high_frequency() -> None:
    images = 0.1 + 0.8 * rendered()
    shares = [clipped((gain * images).clamp(0, 1)) for gain in (1.0, 1.3, 1.8)]
    assert shares[0].max() == 0 and (shares[0] <= shares[1]).all() and (shares[1] < shares[2]).any()
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    assert (high_frequency(images + 0.1 * noise) > high_frequency(images)).all()


@pytest.mark.parametrize(("period", "axis"), [(8, -1), (8, -2), (16, -1)])
def test_a_wave_is_a_grid_of_its_own_period_alone(period: int, axis: int) -> None:
    image = wave(period, 128, axis)
    power = 128 * 0.25**2 / 4  # of a cosine of amplitude 0.25 in 128 samples, in one of its two bins
    harmonics = len(range(1, (period + 1) // 2, 2))
    expected = torch.log2(torch.tensor(power / 1e-6)) / (2 * harmonics)  # one of the harmonics, on one of two axes
    torch.testing.assert_close(grid(image, period)[0], expected, atol=0.05, rtol=0)
    for other in {4, 6, 8, 16} - {period}:
        assert grid(image, other).abs().item() < 0.5 or grid(image, other).item() < 0, other


@pytest.mark.parametrize("drawn", [4, 8, 16])
def test_drawn_lines_raise_the_grid_of_their_period_and_no_other(drawn: int) -> None:
    images = gaussian_blur(rendered(), 9, [2.0])
    images = images + 0.02 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    rises = {p: grid(with_lines(images, drawn), p) - grid(images, p) for p in (4, 6, 8, 16)}
    assert (rises[drawn] > 1).all()
    assert all(rise.mean() < rises[drawn].mean() / 5 for period, rise in rises.items() if period != drawn)
    stronger = grid(with_lines(images, drawn, 0.2), drawn) - grid(images, drawn)
    assert (stronger > rises[drawn]).all()


def test_a_picture_without_a_grid_has_none_whatever_its_spectrum() -> None:
    noise = torch.rand(64, 3, 128, 128, generator=torch.Generator().manual_seed(2))
    assert grid(noise, 8).mean().abs() < 0.1
    assert grid(gaussian_blur(noise, 5, [0.8]), 8).mean().abs() < 0.3
    assert grid(plain_of(64), 16).item() == pytest.approx(0, abs=1e-3)
    with pytest.raises(ValueError, match="a grid of 16 px shows from 64 px on"):
        grid(noise[..., :63], 16)


def test_grids_are_meters_by_their_period() -> None:
    assert list(meters((4, 8))) == [*METERS, "grid/4", "grid/8"]
    images = rendered()
    assert torch.equal(meters((4, 8))["grid/8"](images), grid(images, 8))


@pytest.mark.parametrize("name", METERS)
def test_an_image_is_measured_alone(name: str) -> None:
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    together, alone = METERS[name](images), torch.cat([METERS[name](image[None]) for image in images])
    assert together.shape == (3,)
    torch.testing.assert_close(together, alone)
