"""Real images to train on: files in, latents and embedded captions out, encoded once before training.

Image i of a set has caption i of the set's captions. Latents stay on disk, in shards of one bucket each.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from srpo.artifacts import LatentSet, PromptSet, PromptSets, Snapshot, Weights
from srpo.config import ImagesConfig, ModelConfig, PromptsConfig
from srpo.files import write_atomic
from srpo.hub import digests, fetch, is_remote, resolve, snapshot
from srpo.images.buckets import Bucket, make_buckets
from srpo.images.encode import LATENTS, encode_missing, picture_key
from srpo.images.files import Picture, Rules, read_pictures
from srpo.models import latent_space_skeleton
from srpo.prompts import Prompt, embed_prompts, embed_texts, load_prompt_set, read_held_out, read_prompts
from srpo.shards import StoredRows, encoded_rows, places, sole_writer

__all__ = ["LATENTS", "Texts", "embed", "load_image_set", "read_images", "read_texts"]


def embed(
    model: ModelConfig, prompts: PromptsConfig, images: ImagesConfig | None, weights: Weights, output_dir: Path
) -> PromptSets:
    """Encode all that a run needs encoded: prompts, and images with their captions, into stores under `output_dir`."""
    if images is None:
        return embed_prompts(model, prompts, weights, output_dir)
    source = fetch(images.source, "images").path if is_remote(images.source) else resolve(images.source, "images")
    multiple = latent_space_skeleton(model, weights.model.path).multiple
    pictures = read_images(model, prompts, images, source, multiple)
    texts = read_texts(prompts, images, pictures)
    sets = [(images.source, texts.captions), (prompts.held_out, texts.held_out), (prompts.train, texts.train)]
    captions, held_out, *train = embed_texts(
        model, prompts, weights.model, output_dir, [part for part in sets if part[1]]
    )
    store = output_dir / f"latents-{vae_hash(model, weights.model)}"
    with sole_writer(store):
        keys = [picture_key(picture) for picture in pictures]
        encode_missing(model, weights.model.path, store, list(zip(keys, pictures, strict=True)))
        encoded = _save(store, pictures, keys, images.source, captions)
    return PromptSets(train=train[0] if train else captions, held_out=held_out, images=encoded)


def read_images(
    model: ModelConfig, prompts: PromptsConfig, images: ImagesConfig, source: Path, multiple: int
) -> list[Picture]:
    """The images of a local source, each with its bucket; ConfigError names all that cannot be used.

    `multiple`: what sides of images must be multiples of (`LatentSpace.multiple`).
    """
    buckets = make_buckets(model.height, model.width, images.aspects, multiple)
    return read_pictures(source, Rules(buckets, images.max_upscale, prompts.max_characters))


class Texts(NamedTuple):
    """All texts that a run encodes."""

    captions: list[Prompt]
    """Of its images."""
    train: list[Prompt]
    """That are rolled out."""
    held_out: list[Prompt]
    """Measured on, never trained on."""

    @property
    def trained_on(self) -> list[Prompt]:
        """Captions and prompts."""
        return self.captions + self.train


def read_texts(prompts: PromptsConfig, images: ImagesConfig | None, pictures: Sequence[Picture]) -> Texts:
    """The texts of a run; where all updates take images, no prompts to train on are read."""
    captions = [Prompt(picture.caption) for picture in pictures]
    rolls_out = images is None or images.until_update is not None
    train = read_prompts(prompts.train, "train", prompts.max_characters) if rolls_out else []
    return Texts(captions, train, read_held_out(prompts, captions + train))


def vae_hash(model: ModelConfig, weights: Snapshot) -> str:
    """What latents depend on besides the image and its bucket: the VAE's files by content."""
    files = [[file.path, file.sha256] for file in weights.files if file.path.startswith("vae/")]
    return hashlib.sha256(json.dumps([model.family, files]).encode()).hexdigest()[:16]


def _save(store: Path, pictures: Sequence[Picture], keys: Sequence[str], source: str, captions: PromptSet) -> LatentSet:
    """List a set's buckets and places in a file of the store."""
    rows = encoded_rows(store)
    content = {"buckets": [picture.bucket for picture in pictures], **places([rows[key] for key in keys])}
    text = json.dumps(content)
    index = f"set-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    write_atomic(store / index, text)
    files = tuple(snapshot(store / name, source).files[0] for name in (index, *content["shards"]))
    facts = [[digests.sha256(picture.path), picture.caption] for picture in pictures]
    return LatentSet(
        snapshot=Snapshot(source=source, uri=str(store), files=files),
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
    folder = image_set.snapshot.path
    index = json.loads((folder / image_set.index).read_text(encoding="utf-8"))
    buckets: dict[Bucket, list[int]] = {}
    for image, bucket in enumerate(index["buckets"]):
        buckets.setdefault(Bucket(*bucket), []).append(image)
    latents = StoredRows(folder, index["shards"], index["shard_of"], index["row_of"])
    return StoredImages(*load_prompt_set(image_set.captions), latents, dict(sorted(buckets.items())))
