"""The meters against pictures whose values are known."""

import pytest
import torch

from srpo.meters import METERS, clipped, luminance, saturation, sharpness


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


@pytest.mark.parametrize("name", METERS)
def test_an_image_is_measured_alone(name: str) -> None:
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    together, alone = METERS[name](images), torch.cat([METERS[name](image[None]) for image in images])
    assert together.shape == (3,)
    torch.testing.assert_close(together, alone)
