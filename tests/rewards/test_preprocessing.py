"""Resampling by matrices is torchvision's, in value and in gradient."""

import pytest
import torch
from torchvision.transforms import v2

from srpo.rewards.preprocessing import Resize


@pytest.mark.parametrize(("height", "width"), [(90, 90), (41, 67), (224, 33), (20, 24), (32, 57)])
@pytest.mark.parametrize("antialias", [True, False])
def test_values_and_gradients_are_torchvisions(height: int, width: int, antialias: bool) -> None:
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(height), dtype=torch.float64)
    theirs = v2.Resize(32, interpolation=v2.InterpolationMode.BICUBIC, antialias=antialias)
    results = []
    for resize in (Resize(32, antialias), theirs):
        leaf = images.float().requires_grad_()
        output = resize(leaf)
        output.square().sum().backward()
        assert leaf.grad is not None
        results.append((output.detach(), leaf.grad))
    torch.testing.assert_close(*(output for output, _ in results), atol=2e-6, rtol=0)
    torch.testing.assert_close(*(gradient for _, gradient in results), atol=1e-5, rtol=1e-5)
