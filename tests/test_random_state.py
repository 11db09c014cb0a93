"""Random number generators that go on where they were."""

import random
from pathlib import Path

import numpy as np
import torch

from srpo.random_state import random_state, restore_random_state


def test_every_random_generator_continues(tmp_path: Path) -> None:
    draws = torch.Generator().manual_seed(5)

    def throw() -> list[float]:
        drawn = [torch.randn(3, generator=draws).sum().item(), torch.randn(3).sum().item()]
        return [*drawn, np.random.randn(), random.random(), random.gauss()]

    throw()  # leaves numpy and random with a second gaussian in store
    (tmp_path / "rng.safetensors").write_bytes(random_state(draws))
    first = throw()
    restore_random_state(tmp_path / "rng.safetensors", draws)
    assert throw() == first
