"""What families have in common: parts of a diffusers folder, 2x2 patches as tokens, its schedule, an exact timestep."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, ModelMixin
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor

from srpo.config import WeightsFormat
from srpo.errors import ConfigError
from srpo.models import CPU
from srpo.models.layout import read_json
from srpo.models.weights import load_transformer


class FolderText:
    """Tokenizers and text encoders in diffusers' own pipeline; a family adds how it encodes prompts."""

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self.pipeline = pipeline

    def to(self, device: torch.device) -> Self:
        """Move the encoders."""
        self.pipeline.to(device)
        return self


class FolderVae(ABC):
    """A frozen VAE; a family adds what `srpo.models.LatentSpace` has besides."""

    vae_class: ClassVar[type[ModelMixin]]

    def __init__(self, vae: ModelMixin) -> None:
        self.vae = vae.requires_grad_(False).eval()

    @classmethod
    def load(cls, folder: Path) -> Self:
        """From disk, in float32."""
        return cls(load_vae(cls.vae_class, folder))

    @classmethod
    def skeleton(cls, folder: Path) -> Self:
        """On the meta device, from the config file alone."""
        return cls(on_meta(cls.vae_class, folder / "vae"))

    def to(self, device: torch.device) -> Self:
        """Move the VAE."""
        self.vae.to(device)
        return self

    @property
    @abstractmethod
    def multiple(self) -> int:
        """Height and width of an image must be multiples of this many pixels: VAE and patches divide by it."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Of the latents."""

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(channels, h, w) of the latents of an image of height x width pixels."""
        check_image_size(height, width, self.multiple)
        return self.channels, 2 * height // self.multiple, 2 * width // self.multiple


class FolderModel(FolderVae):
    """A VAE, a transformer and a schedule; a family adds what `srpo.models.TextToImage` has besides."""

    transformer_class: ClassVar[type[ModelMixin]]

    def __init__(self, transformer: ModelMixin, vae: ModelMixin, scheduler: FlowMatchEulerDiscreteScheduler) -> None:
        super().__init__(vae)
        self.transformer = transformer
        self.scheduler = scheduler
        self._timestep = ExactTimestep(transformer.time_text_embed)

    @classmethod
    def load(
        cls,
        folder: Path,
        transformer: Path | None = None,
        weights: WeightsFormat | None = "fp32",
        device: torch.device = CPU,
    ) -> Self:
        """From disk, the VAE in float32; `transformer` is an aligned one (folder or file), or its adapter."""
        return cls(
            load_transformer(cls.transformer_class, folder / "transformer", transformer, weights, device),
            load_vae(cls.vae_class, folder),
            FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler", local_files_only=True),
        )

    @classmethod
    def skeleton(cls, folder: Path) -> Self:
        """On the meta device, from the folder's config files alone."""
        settings = read_json(folder / "scheduler" / "scheduler_config.json")
        return cls(
            on_meta(cls.transformer_class, folder / "transformer"),
            on_meta(cls.vae_class, folder / "vae"),
            FlowMatchEulerDiscreteScheduler.from_config(settings),
        )

    def to(self, device: torch.device) -> Self:
        """Move all parts."""
        self.transformer.to(device)
        return super().to(device)

    def sampling_sigmas(self, num_steps: int, height: int, width: int) -> Tensor:
        """The folder's own schedule, as diffusers' pipelines compute it."""
        _, rows, columns = self.latent_shape(height, width)
        return folder_sigmas(self.scheduler, rows * columns // 4, num_steps)


def load_vae(vae_class: type[ModelMixin], folder: Path) -> ModelMixin:
    """The VAE of a diffusers folder, in float32."""
    options = {"dtype": torch.float32, "local_files_only": True, "use_safetensors": True}
    return vae_class.from_pretrained(folder / "vae", **options)


def on_meta(part_class: type[ModelMixin], folder: Path) -> ModelMixin:
    """A part on the meta device, from its config file alone."""
    with torch.device("meta"):
        return part_class.from_config(read_json(folder / "config.json"))


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
    """Hands a transformer's time embedding the timestep unrounded, and a guidance where it takes one.

    Computing in bf16, diffusers rounds them to bf16 on the way: the timestep by up to 2 of 1000, a guidance of 3.5,
    which is 3500 there, to 3504. Its own pipeline in bf16 sees that; here training and evaluation see what was asked.
    """

    def __init__(self, time_embedding: torch.nn.Module) -> None:
        self.values: tuple[Tensor, ...] = ()
        time_embedding.register_forward_pre_hook(self._replace)

    @contextmanager
    def set_to(self, *values: Tensor) -> Iterator[None]:
        """The embedding's first arguments in a forward inside; outside of it the transformer is any pipeline's."""
        self.values = values
        try:
            yield
        finally:
            self.values = ()

    def _replace(self, module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (*self.values, *arguments[len(self.values) :])
