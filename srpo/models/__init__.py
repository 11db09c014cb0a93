"""Base models: one file each, with the same four verbs (load, encode prompts, velocity, decode)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from diffusers import ModelMixin
from torch import Tensor

from srpo.config import ModelConfig, WeightsFormat
from srpo.errors import ConfigError
from srpo.models import flux

Embeddings = dict[str, Tensor]
"""What a model needs to know of its prompts; every tensor is batch-first."""


class TextEncoder(Protocol):
    """What turns prompts into embeddings; it is loaded without the rest of the model."""

    def encode_prompts(self, prompts: Sequence[str], max_sequence_length: int) -> Embeddings:
        """Embeddings of the prompts on the encoder's device, as the model's own pipeline makes them."""

    def to(self, device: torch.device) -> "TextEncoder":
        """Move all parts."""


class TextToImage(Protocol):
    """A rectified-flow text-to-image model; latents are the VAE's (batch, channels, h, w), not packed."""

    transformer: ModelMixin
    """The part that is trained."""
    vae: ModelMixin
    """Frozen."""

    def velocity(self, x: Tensor, sigma: Tensor, embeddings: Embeddings, guidance: float | None) -> Tensor:
        """`noise - x0` predicted at x (batch, channels, h, w) and sigma (batch,); exact sigma, never rounded."""

    def decode(self, x0: Tensor) -> Tensor:
        """Images (batch, 3, height, width), clamped to [0, 1]: the gradient is zero where a pixel is clamped."""

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(channels, h, w) of an image's latents; ConfigError for a size that the VAE or the patches cannot take."""

    def blank_embeddings(self, batch: int, max_sequence_length: int) -> Embeddings:
        """Zeros in the shape of the embeddings of `batch` prompts, to count what a run costs."""

    def sampling_sigmas(self, num_steps: int, height: int, width: int) -> Tensor:
        """Descending schedule of `num_steps + 1` sigmas by the model's own scheduler settings."""

    def to(self, device: torch.device) -> "TextToImage":
        """Move all parts."""


@dataclass(frozen=True)
class Family:
    """How a model family is loaded and checked."""

    load: Callable[[Path, Path | None, WeightsFormat], TextToImage]
    """(folder, folder of another transformer or of an adapter or None, format of the transformer) -> model."""
    load_text: Callable[[Path], TextEncoder]
    """folder -> its text encoders in float32."""
    check: Callable[[Path, int, int], None]
    """(folder, height, width): layout, names and shapes by file headers alone; ConfigError names what is wrong."""
    skeleton: Callable[[Path], TextToImage]
    """folder -> the model on the meta device, from its config files alone."""
    is_guided: Callable[[Path], bool]
    """folder -> does the transformer take a guidance?"""


MODELS: dict[str, Family] = {"flux": Family(flux.load, flux.load_text, flux.check, flux.skeleton, flux.is_guided)}


def find_family(name: str) -> Family:
    """A family by its name; ConfigError says which there are."""
    if name not in MODELS:
        raise ConfigError(f"model.family: no model family named {name!r}; choose from {sorted(MODELS)}")
    return MODELS[name]


def load_model(config: ModelConfig, folder: Path, transformer: Path | None = None) -> TextToImage:
    """The model in a diffusers folder; `transformer` names the folder of an aligned one, or of an adapter, to use."""
    return find_family(config.family).load(folder, transformer, config.weights)


def load_text_encoder(config: ModelConfig, folder: Path) -> TextEncoder:
    """The text side of the model in a diffusers folder, in float32."""
    return find_family(config.family).load_text(folder)


def check_model(config: ModelConfig, folder: Path) -> None:
    """Refuse a folder that would fail later; reads headers only, no weights."""
    find_family(config.family).check(folder, config.height, config.width)


def model_skeleton(config: ModelConfig, folder: Path) -> TextToImage:
    """The model on the meta device, from the config files in a folder: shapes without weights."""
    return find_family(config.family).skeleton(folder)


def check_guidance(config: ModelConfig, folder: Path, guidance: Mapping[str, float | None]) -> None:
    """Refuse a guidance that the model would miss or ignore; `guidance`: value by the name of its setting."""
    guided = find_family(config.family).is_guided(folder)
    wrong = [name for name, value in guidance.items() if (value is not None) != guided]
    if wrong:
        problem = "takes a guidance (1 to 5, usually 3.5)" if guided else "takes no guidance; set it to null"
        raise ConfigError(f"{', '.join(wrong)}: the model in {folder} {problem}")
