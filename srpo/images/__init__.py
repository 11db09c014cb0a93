"""Real images to train on: files in, latents and embedded captions out, encoded once before training.

Image i of a set has caption i of the set's captions. Latents stay on disk, in shards of one bucket each.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from srpo.artifacts import LatentSet, PromptSet, Snapshot
from srpo.config import ImagesConfig, ModelConfig, PromptsConfig
from srpo.hub import digests
from srpo.images.buckets import Bucket, make_buckets
from srpo.images.encode import LATENTS, encode_missing, picture_key
from srpo.images.files import Picture, Rules, read_pictures
from srpo.prompts import load_prompt_set
from srpo.shards import StoredRows, encoded_rows, read_set, sole_writer, write_set

__all__ = ["LATENTS", "encode_images", "load_image_set", "read_images", "vae_hash"]


def read_images(
    model: ModelConfig, prompts: PromptsConfig, images: ImagesConfig, source: Path, multiple: int
) -> list[Picture]:
    """The images of a local source, each with its bucket; ConfigError names all that cannot be used.

    `multiple`: what sides of images must be multiples of (`LatentSpace.multiple`).
    """
    buckets = make_buckets(model.height, model.width, images.aspects, multiple)
    return read_pictures(source, Rules(buckets, images.max_upscale, prompts.max_characters))


def encode_images(
    model: ModelConfig,
    weights: Snapshot,
    pictures: Sequence[Picture],
    source: str,
    captions: PromptSet,
    output_dir: Path,
    num_processes: int | None = None,
) -> LatentSet:
    """Latents of the pictures of a source, into a store under `output_dir`, made by so many processes."""
    store = output_dir / f"latents-{vae_hash(model, weights)}"
    with sole_writer(store):
        keys = [picture_key(picture) for picture in pictures]
        encode_missing(model, weights.path, store, list(zip(keys, pictures, strict=True)), num_processes)
        return _save(store, pictures, keys, source, captions)


def vae_hash(model: ModelConfig, weights: Snapshot) -> str:
    """What latents depend on besides the image and its bucket: the VAE's files by content."""
    files = [[file.path, file.sha256] for file in weights.files if file.path.startswith("vae/")]
    return hashlib.sha256(json.dumps([model.family, files]).encode()).hexdigest()[:16]


def _save(store: Path, pictures: Sequence[Picture], keys: Sequence[str], source: str, captions: PromptSet) -> LatentSet:
    """List a set's buckets and places in a file of the store."""
    rows = encoded_rows(store)
    buckets = [picture.bucket for picture in pictures]
    index, files = write_set(store, {"buckets": buckets}, [rows[key] for key in keys], source)
    facts = [[digests.sha256(picture.path), picture.caption] for picture in pictures]
    return LatentSet(
        snapshot=files,
        index=index,
        sha256=hashlib.sha256(json.dumps(facts).encode()).hexdigest(),
        captions=captions,
        num_images=len(pictures),
    )


@dataclass(frozen=True)
class StoredImages:
    """A set of images as training draws them; tensors stay on disk."""

    captions: list[str]
    embeddings: StoredRows
    """Of the captions."""
    latents: StoredRows
    """One tensor, `LATENTS`; only images of one bucket can be selected together."""
    buckets: dict[Bucket, list[int]]
    """Bucket -> its images, by their index."""


def load_image_set(image_set: LatentSet) -> StoredImages:
    """What `embed` has made of the images."""
    content, latents = read_set(image_set.snapshot.path, image_set.index)
    buckets: dict[Bucket, list[int]] = {}
    for image, bucket in enumerate(content["buckets"]):
        buckets.setdefault(Bucket(*bucket), []).append(image)
    return StoredImages(*load_prompt_set(image_set.captions), latents, dict(sorted(buckets.items())))
