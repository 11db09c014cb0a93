"""Proof that the parity test can fail: each deliberate mistake is noticed on a shipped set."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from srpo.align import Levels, SigmaGrid
from srpo.models import flux
from srpo.models.flux import Flux
from srpo.rewards import preprocessing
from tests.parity import SHIPPED_SETS, Golden


def no_clamp(golden: Golden, patch: pytest.MonkeyPatch) -> None:
    def decode(self: Flux, x0: Tensor) -> Tensor:
        config = self.vae.config
        return self.vae.decode(x0 / config.scaling_factor + config.shift_factor).sample / 2 + 0.5

    patch.setattr(Flux, "decode", decode)


def rollout_guidance_in_the_trained_step(golden: Golden, patch: pytest.MonkeyPatch) -> None:
    golden.align = golden.align.model_copy(update={"guidance": golden.training["rollout_guidance"]})


def no_cap_on_the_stride(golden: Golden, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SigmaGrid, "_stride", lambda self, m: torch.minimum(m, self.num_levels - m))


def k_read_at_the_drawn_position(golden: Golden, patch: pytest.MonkeyPatch) -> None:
    levels = SigmaGrid.inversion

    def inversion(self: SigmaGrid, position: Tensor) -> Levels:
        right = levels(self, position)
        return Levels(right.sigma_from, right.sigma_to, position)

    patch.setattr(SigmaGrid, "inversion", inversion)


def no_antialiasing(golden: Golden, patch: pytest.MonkeyPatch) -> None:
    # the recorded pictures are enlarged for the reward; there antialiasing shows as another cubic filter
    def resampling(length: int, new_length: int) -> Tensor:
        return interpolate(torch.eye(length)[None, None], (new_length, length), mode="bicubic")[0, 0]

    patch.setattr(preprocessing, "resampling", resampling)


def truncated_timestep(golden: Golden, patch: pytest.MonkeyPatch) -> None:
    velocity = Flux.velocity
    patch.setattr(Flux, "velocity", lambda self, x, sigma, *rest: velocity(self, x, (sigma * 1000).int() / 1000, *rest))


def another_margin(golden: Golden, patch: pytest.MonkeyPatch) -> None:
    golden.preference = golden.preference.model_copy(update={"margin": 0.0})


def height_and_width_exchanged(golden: Golden, patch: pytest.MonkeyPatch) -> None:
    image_ids = flux.image_ids
    patch.setattr(flux, "image_ids", lambda height, width, like: image_ids(width, height, like))


MUTATIONS: list[Callable[[Golden, pytest.MonkeyPatch], None]] = [
    no_clamp,
    rollout_guidance_in_the_trained_step,
    no_cap_on_the_stride,
    k_read_at_the_drawn_position,
    no_antialiasing,
    truncated_timestep,
    another_margin,
    height_and_width_exchanged,
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_wrong_update_is_noticed(mutation: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    assert any(_differs(folder, mutation, monkeypatch) for folder in SHIPPED_SETS)


def _differs(folder: Path, mutation: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> bool:
    golden = Golden.load(folder)
    with monkeypatch.context() as patch:
        mutation(golden, patch)
        for case in golden.cases:
            try:
                golden.check([case])
            except AssertionError:
                return True
    return False
