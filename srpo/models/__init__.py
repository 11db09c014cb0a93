"""Base models: one file each, with the same four verbs (load, encode prompts, velocity, decode)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from diffusers import ModelMixin
from torch import Tensor

from srpo.config import ModelConfig
from srpo.errors import ConfigError
from srpo.models import flux

Embeddings = dict[str, Tensor]
"""What a model needs to know of its prompts; every tensor is batch-first."""


class TextToImage(Protocol):
    """A rectified-flow text-to-image model; latents are the VAE's (batch, channels, h, w), not packed."""

    transformer: ModelMixin
    """The part that is trained."""

    def encode_prompts(self, prompts: Sequence[str], max_sequence_length: int) -> Embeddings:
        """Embeddings of the prompts, as the model's own pipeline makes them."""

    def velocity(self, x: Tensor, sigma: Tensor, embeddings: Embeddings, guidance: float | None) -> Tensor:
        """`noise - x0` predicted at x (batch, channels, h, w) and sigma (batch,); exact sigma, never rounded."""

    def decode(self, x0: Tensor) -> Tensor:
        """Images (batch, 3, height, width), clamped to [0, 1]: the gradient is zero where a pixel is clamped."""

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(channels, h, w) of an image's latents; ConfigError for a size that the VAE or the patches cannot take."""

    def sampling_sigmas(self, num_steps: int, height: int, width: int) -> Tensor:
        """Descending schedule of `num_steps + 1` sigmas by the model's own scheduler settings."""

    def to(self, device: torch.device) -> "TextToImage":
        """Move all parts."""


@dataclass(frozen=True)
class Family:
    """How a model family is loaded and checked."""

    load: Callable[[Path, Path | None, bool], TextToImage]
    """(folder, folder of another transformer or None, with text encoders?) -> model in float32."""
    check: Callable[[Path, int, int], None]
    """(folder, height, width): layout, names and shapes by file headers alone; ConfigError names what is wrong."""


MODELS: dict[str, Family] = {"flux": Family(flux.load, flux.check)}


def find_family(name: str) -> Family:
    """A family by its name; ConfigError says which there are."""
    if name not in MODELS:
        raise ConfigError(f"model.family: no model family named {name!r}; choose from {sorted(MODELS)}")
    return MODELS[name]


def load_model(
    config: ModelConfig, folder: Path, transformer: Path | None = None, text_encoders: bool = False
) -> TextToImage:
    """The model in a diffusers folder, in float32; `transformer` names the folder of an aligned one to use instead."""
    return find_family(config.family).load(folder, transformer, text_encoders)


def check_model(config: ModelConfig, folder: Path) -> None:
    """Refuse a folder that would fail later; reads headers only, no weights."""
    find_family(config.family).check(folder, config.height, config.width)
