"""The model, the reward and the prompts."""

from typing import Literal

from pydantic import Field

from srpo.config.base import Settings

WeightsFormat = Literal["fp32", "bf16", "int8", "nf4"]
QUANTISED: tuple[WeightsFormat, ...] = ("int8", "nf4")


class ModelConfig(Settings):
    """The model to align."""

    family: str = "flux"
    """Architecture: flux or qwen_image."""
    source: str = "builtin:shapes"
    """Where the diffusers folder lies: a path, hf://owner/name[@revision], s3://bucket/prefix, or `builtin:shapes`."""
    height: int = Field(default=720, gt=0)
    """Height of the training images in pixels; a multiple of what the VAE and the 2x2 patches need."""
    width: int = Field(default=720, gt=0)
    """Width of the training images in pixels."""
    max_sequence_length: int = Field(default=512, gt=0)
    """Tokens of the long text encoder (T5 for FLUX, Qwen2.5-VL for Qwen-Image)."""
    weights: WeightsFormat = "fp32"
    """How the transformer's weights are kept: fp32, bf16, or quantised and frozen under LoRA: int8, nf4 (4 bits)."""


class RewardConfig(Settings):
    """The frozen text-conditioned reward."""

    family: str = "hps"
    """Key of `srpo.rewards.REWARDS`. `hps`: an open_clip state dict; `clip`: a transformers CLIPModel folder; `head`:
    such a folder with an MLP on its features."""
    source: str = "builtin:shapes"
    """Where the checkpoint lies: a file, a folder, hf://owner/name[@revision][/file], s3://...; `builtin:shapes`, or
    `builtin:shapes-biased`, which likes saturated pictures whatever the text says."""
    architecture: str = "ViT-H-14"
    """For `hps`: an open_clip model name, or the path of an open_clip model JSON: beside the checkpoint, or else in the
    folder where the run is started."""


class PromptsConfig(Settings):
    """What is drawn, and how its embeddings are made."""

    train: str = "builtin:shapes"
    """Prompts to train on: a file (.txt, .csv, .tsv, .json, .jsonl; see `srpo.prompts.files`), here, at `s3://` or `hf://`;
    `builtin:shapes`: the captions of the embedded world; or `builtin:photos`: 640 prompts in ten categories for a real
    model."""
    held_out: str = "builtin:shapes"
    """Prompts that are only measured on, during training and at the end; none may be among the training prompts.
    `builtin:photos` holds 200 of them, in the same categories."""
    max_characters: int = Field(default=2000, gt=0)
    """Longest prompt accepted."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """How embeddings are stored. `fp32`: exactly; `bf16`: half the space, rounded to 8 bits of mantissa (lossy)."""
    num_processes: int | None = Field(default=None, gt=0)
    """Processes that encode; null: one per GPU, or one on the CPU."""
