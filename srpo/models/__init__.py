"""Base models: one file each, behind the same protocols (`TextEncoder`, `LatentSpace`, `TextToImage`).

Families are imported when one is first asked for: diffusers takes seconds, which commands without a model save.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from srpo.config import ModelConfig, WeightsFormat
from srpo.errors import ConfigError
from srpo.models.layout import read_json
from srpo.models.weights import load_dtype

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin

CPU = torch.device("cpu")
Embeddings = dict[str, Tensor]
"""What a model needs to know of its prompts; every tensor is batch-first, and as long for one prompt as for another:
families whose prompts differ in length pad them and keep a mask."""


class TextEncoder(Protocol):
    """What turns prompts into embeddings; it is loaded without the rest of the model."""

    def encode_prompts(self, prompts: Sequence[str], max_sequence_length: int) -> Embeddings:
        """Embeddings of the prompts on the encoder's device, as the model's own pipeline makes them."""

    def to(self, device: torch.device) -> "TextEncoder":
        """Move all parts."""


class TextSkeleton(NamedTuple):
    """Text encoders on the meta device."""

    encoders: tuple[nn.Module, ...]
    forward: Callable[[Tensor], Any]
    """Ids (batch, tokens) -> what the encoder that needs most makes of them."""
    template: int = 0
    """Tokens that the pipeline puts around a prompt, besides `model.max_sequence_length`."""


class LatentSpace(Protocol):
    """A model's VAE, frozen, with its constants; latents are the VAE's (batch, channels, h, w), not packed."""

    vae: "ModelMixin"

    @classmethod
    def load(cls, folder: Path) -> Self:
        """From a diffusers folder, in float32."""

    @classmethod
    def skeleton(cls, folder: Path) -> Self:
        """On the meta device, from the folder's config files alone."""

    @property
    def multiple(self) -> int:
        """Height and width of an image must be multiples of this many pixels."""

    def encode(self, images: Tensor) -> Tensor:
        """Latents of images (batch, 3, height, width) in [0, 1], without gradient.

        They are the mean of the VAE's posterior, not a sample of it: its spread is tiny beside the noise that is added
        to the latents, and the mean is the same each time.
        """

    def decode(self, x0: Tensor) -> Tensor:
        """Images (batch, 3, height, width), clamped to [0, 1]: the gradient is zero where a pixel is clamped."""

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(channels, h, w) of an image's latents; ConfigError for a size that the VAE or the patches cannot take."""

    def to(self, device: torch.device) -> "LatentSpace":
        """Move it."""


class TextToImage(LatentSpace, Protocol):
    """A rectified-flow text-to-image model, its VAE included."""

    transformer: "ModelMixin"
    """The part that is trained."""

    @classmethod
    def load(
        cls,
        folder: Path,
        transformer: Path | None = None,
        weights: WeightsFormat | None = "fp32",
        device: torch.device = CPU,
    ) -> Self:
        """From a diffusers folder, or with another transformer (folder, file) or an adapter, each tensor to the device.

        `weights`: format of the transformer; without one its parameters are on the meta device.
        """

    def velocity(self, x: Tensor, sigma: Tensor, embeddings: Embeddings, guidance: float | None) -> Tensor:
        """`noise - x0` predicted at x (batch, channels, h, w) and sigma (batch,); exact sigma, never rounded.

        `guidance` means what the family's own pipeline makes of it: an input of the transformer (FLUX), or classifier-
        free guidance by a second forward (Qwen-Image); None is none.
        """

    def blank_embeddings(self, batch: int, max_sequence_length: int) -> Embeddings:
        """Zeros in the shape of the embeddings of `batch` prompts, to count what a run costs."""

    def sampling_sigmas(self, num_steps: int, height: int, width: int) -> Tensor:
        """Descending schedule of `num_steps + 1` sigmas by the model's own scheduler settings."""

    def to(self, device: torch.device) -> "TextToImage":
        """Move all parts."""


@dataclass(frozen=True)
class Family:
    """How a model family is loaded and checked: what each file here has as its `FAMILY`."""

    model: type[TextToImage]
    vae: type[LatentSpace]
    """What the model is without its transformer."""
    load_text: Callable[[Path, torch.dtype], TextEncoder]
    """(folder, type of the weights) -> its text encoders."""
    check: Callable[[Path, int, int], None]
    """(folder, height, width): layout, names and shapes by file headers alone; ConfigError names what is wrong."""
    text_skeleton: Callable[[Path], TextSkeleton]
    """folder -> its text encoders on the meta device, from their config files alone."""
    guidance_problem: Callable[[Path, float | None], str]
    """(folder, guidance) -> the end of a sentence that begins with "the model": why not this one; empty if it fits."""
    guidance: Callable[[Path], float | None]
    """folder -> the guidance that its model is published to be sampled with; None for none."""
    pipeline: type["DiffusionPipeline"]
    """Its pipeline in diffusers, and the form that adapters have."""


FAMILIES = {"flux": "FluxPipeline", "qwen_image": "QwenImagePipeline"}
"""`model.family` -> what a folder's model_index.json calls its pipeline."""


def find_family(name: str) -> Family:
    """A family by its name; ConfigError says which there are."""
    if name not in FAMILIES:
        raise ConfigError(f"model.family: no model family named {name!r}; choose from {sorted(FAMILIES)}")
    from srpo.models import flux, qwen_image

    return {"flux": flux.FAMILY, "qwen_image": qwen_image.FAMILY}[name]


def load_model(
    config: ModelConfig, folder: Path, transformer: Path | None = None, device: torch.device = CPU
) -> TextToImage:
    """The model in a diffusers folder, on a device; `transformer`: folder of an aligned one, or of its adapter."""
    return find_family(config.family).model.load(folder, transformer, config.weights, device).to(device)


def load_without_transformer(config: ModelConfig, folder: Path) -> TextToImage:
    """The same, with the transformer's parameters on the meta device."""
    return find_family(config.family).model.load(folder, weights=None)


def load_text_encoder(config: ModelConfig, folder: Path) -> TextEncoder:
    """The text side of the model in a diffusers folder, in bf16 unless the transformer is kept in float32."""
    return find_family(config.family).load_text(folder, load_dtype(config.weights))


def load_latent_space(config: ModelConfig, folder: Path) -> LatentSpace:
    """The VAE of the model in a diffusers folder, in float32."""
    return find_family(config.family).vae.load(folder)


def latent_space_skeleton(config: ModelConfig, folder: Path) -> LatentSpace:
    """The same on the meta device, from its config file alone."""
    return find_family(config.family).vae.skeleton(folder)


def family_of(folder: Path) -> str | None:
    """The family whose layout a folder says it has; None if it does not say, or names one that is not here."""
    index = folder / "model_index.json"
    pipeline = read_json(index).get("_class_name") if index.is_file() else None
    return next((name for name, of_family in FAMILIES.items() if of_family == pipeline), None)


def check_model(config: ModelConfig, folder: Path) -> None:
    """Refuse a folder that would fail later; reads headers only, no weights."""
    family = find_family(config.family)
    if (found := family_of(folder) or config.family) != config.family:
        raise ConfigError(f"model.family is {config.family!r}, but the model in {folder} is {found!r}; set it to that")
    family.check(folder, config.height, config.width)


def can_recompute_vae(folder: Path) -> bool:
    """Whether the VAE's class can be computed again in the backward pass (a video's cannot)."""
    import diffusers

    name = read_json(folder / "vae" / "config.json").get("_class_name", "")
    return bool(getattr(getattr(diffusers, name, None), "_supports_gradient_checkpointing", True))


def model_skeleton(config: ModelConfig, folder: Path) -> TextToImage:
    """The model on the meta device, from the config files in a folder: shapes without weights."""
    return find_family(config.family).model.skeleton(folder)


def text_skeleton(config: ModelConfig, folder: Path) -> TextSkeleton:
    """The text encoders on the meta device, from the config files in a folder."""
    return find_family(config.family).text_skeleton(folder)


def check_guidance(config: ModelConfig, folder: Path, guidance: Mapping[str, float | None]) -> None:
    """Refuse a guidance that the model would miss or ignore; `guidance`: value by the name of its setting."""
    family = find_family(config.family)
    problems: dict[str, list[str]] = {}
    for name, value in guidance.items():
        if problem := family.guidance_problem(folder, value):
            problems.setdefault(problem, []).append(name)
    if problems:
        lines = (f"{', '.join(names)}: the model in {folder} {problem}" for problem, names in problems.items())
        raise ConfigError("\n".join(lines))
