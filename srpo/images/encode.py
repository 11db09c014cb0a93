"""Encoding the images that the store does not hold yet, each alone, so that its latents depend on nothing else."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from srpo.config import ModelConfig
from srpo.encoding import Encoding
from srpo.hub import digests
from srpo.images.buckets import fit
from srpo.images.files import Picture
from srpo.models import load_latent_space
from srpo.shards import encoded_rows, key_of

LATENTS = "x0"
SHARD = 64
"""Images of a shard, which is what a kill can lose."""


@dataclass(frozen=True)
class ImageEncoding(Encoding[tuple[str, Picture]]):
    """Pictures with their keys, by the model's VAE."""

    def key(self, item: tuple[str, Picture]) -> str:
        """Known already."""
        return item[0]

    def encoder(self, device: torch.device) -> Callable[[list[tuple[str, Picture]]], dict[str, Tensor]]:
        """Latents (images, channels, h, w) of pictures of one bucket."""
        space = load_latent_space(self.model, self.model_folder).to(device)

        def encode(items: list[tuple[str, Picture]]) -> dict[str, Tensor]:
            images = (to_tensor(fit(picture.open(), picture.bucket)) for _, picture in items)
            return {LATENTS: torch.cat([space.encode(image.to(device)).cpu() for image in images])}

        return encode


def to_tensor(picture: Image.Image) -> Tensor:
    """An RGB picture as (1, 3, height, width) in [0, 1]."""
    from torchvision.transforms.functional import pil_to_tensor

    return pil_to_tensor(picture)[None].float() / 255


def picture_key(picture: Picture) -> str:
    """What latents depend on besides the VAE: the file's content and the bucket."""
    return key_of(json.dumps([digests.sha256(picture.path), *picture.bucket]))


def encode_missing(
    model: ModelConfig,
    model_folder: Path,
    store: Path,
    items: Sequence[tuple[str, Picture]],
    num_processes: int | None,
) -> None:
    """Encode what the store does not hold of some pictures, given with their keys."""
    known = encoded_rows(store)
    missing = {key: picture for key, picture in items if key not in known}
    by_bucket = sorted(missing.items(), key=lambda item: item[1].bucket)
    shards: list[list[tuple[str, Picture]]] = []
    for _, group in groupby(by_bucket, key=lambda item: item[1].bucket):
        alike = list(group)
        shards += [alike[start : start + SHARD] for start in range(0, len(alike), SHARD)]
    ImageEncoding(model, model_folder, store, shards, num_processes).run()
