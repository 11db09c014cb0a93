"""CLIP and PickScore (arXiv:2305.01569): transformers' CLIPModel, scored by `exp(logit_scale) / 20 * cosine`.

The published PickScore is `exp(logit_scale) * cosine`; SRPO divides by 20 to bring it to HPSv2.1's scale, which its
margin and learning rate were made for.
"""

from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizerFast

from srpo.errors import ConfigError
from srpo.models.layout import check_component, check_tokenizer
from srpo.rewards.dual_encoder import DualEncoderReward

RewardClass = TypeVar("RewardClass", bound=DualEncoderReward)
HPS_SCALE = 20
"""Brings `exp(logit_scale) * cosine` to HPSv2.1's scale (the reference's division)."""


def load(path: Path, architecture: str) -> DualEncoderReward:
    """The reward in a transformers folder (model and tokenizer); its own config gives the architecture."""
    model = CLIPModel.from_pretrained(path, dtype=torch.float32, local_files_only=True, use_safetensors=True)
    scale = model.logit_scale.exp().item() / HPS_SCALE
    return build(model, CLIPTokenizerFast.from_pretrained(path, local_files_only=True), scale)


def skeleton(path: Path, architecture: str) -> DualEncoderReward:
    """The reward on the meta device, from the folder's config and tokenizer."""
    with torch.device("meta"):
        model = CLIPModel(CLIPConfig.from_pretrained(path, local_files_only=True))
    return build(model, CLIPTokenizerFast.from_pretrained(path, local_files_only=True), 1.0)


def build(
    model: CLIPModel,
    tokenizer: CLIPTokenizerFast,
    scale: float,
    cls: type[RewardClass] = DualEncoderReward,  # type: ignore[assignment]
) -> RewardClass:
    """A reward around a CLIPModel and its tokenizer: `scale` times the cosine, or what another class makes of both."""
    length = model.config.text_config.max_position_embeddings

    def tokenize(texts: list[str]) -> Tensor:
        tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return tokens.input_ids

    return cls(
        model,
        lambda pixels: model.get_image_features(pixel_values=pixels).pooler_output,
        lambda tokens: model.get_text_features(input_ids=tokens).pooler_output,
        tokenize,
        model.config.vision_config.image_size,
        scale=scale,
    )


def check(path: Path, architecture: str) -> None:
    """The folder is whole and its tensors are those of its config."""
    if not path.is_dir():
        raise ConfigError(f"no reward folder at {path}; give the path of a CLIPModel folder in transformers layout")
    check_component(path, CLIPModel)
    check_tokenizer(path, CLIPTokenizerFast)
