"""What FLUX and Qwen-Image have in common: 2x2 patches as tokens, the folder's own schedule, an exact timestep."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor, nn

from srpo.errors import ConfigError


class TextSkeleton(NamedTuple):
    """Text encoders on the meta device."""

    encoders: tuple[nn.Module, ...]
    forward: Callable[[Tensor], Any]
    """Ids (batch, tokens) -> what the encoder that needs most makes of them."""
    template: int = 0
    """Tokens that the pipeline puts around a prompt, besides `model.max_sequence_length`."""


def pack(latents: Tensor) -> Tensor:
    """2x2 patches as tokens: (batch, c, h, w) -> (batch, h/2 * w/2, 4c)."""
    batch, channels, height, width = latents.shape
    patches = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, (height // 2) * (width // 2), channels * 4)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Inverse of `pack`; height and width are those of the latents."""
    batch, _, channels = tokens.shape
    patches = tokens.reshape(batch, height // 2, width // 2, channels // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, height, width)


def check_image_size(height: int, width: int, multiple: int) -> None:
    """VAE and patches divide by `multiple`: anything else would be cropped without a word."""
    if height % multiple or width % multiple:
        raise ConfigError(
            f"model.height x model.width is {height}x{width}, but this VAE needs multiples of {multiple}; "
            f"try {max(1, round(height / multiple)) * multiple}x{max(1, round(width / multiple)) * multiple}"
        )


def folder_sigmas(folder_scheduler: FlowMatchEulerDiscreteScheduler, num_tokens: int, num_steps: int) -> Tensor:
    """The folder's schedule (static or resolution-dependent shift), as diffusers' pipelines compute it."""
    settings = folder_scheduler.config
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(settings)
    mu = calculate_shift(
        num_tokens,
        settings.get("base_image_seq_len", 256),
        settings.get("max_image_seq_len", 4096),
        settings.get("base_shift", 0.5),
        settings.get("max_shift", 1.15),
    )
    sigmas = None if settings.get("use_flow_sigmas") else np.linspace(1.0, 1 / num_steps, num_steps)
    scheduler.set_timesteps(None if sigmas is not None else num_steps, sigmas=sigmas, mu=mu)
    return scheduler.sigmas


class ExactTimestep:
    """Hands a transformer's time embedding the timestep unrounded.

    Under bf16 autocast diffusers rounds it to bf16 on the way, which moves it by up to 2 of 1000.
    """

    def __init__(self, time_embedding: torch.nn.Module) -> None:
        self.value: Tensor | None = None
        time_embedding.register_forward_pre_hook(self._replace)

    @contextmanager
    def set_to(self, value: Tensor) -> Iterator[None]:
        """For a forward inside; outside of it the transformer is any pipeline's."""
        self.value = value
        try:
            yield
        finally:
            self.value = None

    def _replace(self, module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return None if self.value is None else (self.value, *arguments[1:])
