"""Which texts a run needs encoded, and encoding them, with the images where it has some."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from srpo.artifacts import PromptSets, Weights
from srpo.config import ImagesConfig, ModelConfig, PromptsConfig, RunConfig
from srpo.hub import fetch, is_remote, resolve
from srpo.images import encode_images, read_images, vae_hash
from srpo.images.files import Picture
from srpo.images.survey import pictures_at_hand
from srpo.models import latent_space_skeleton
from srpo.prompts import Prompt, embed_prompts, embed_texts, encoder_hash, read_both, read_held_out, read_prompts

Fetch = Callable[[Callable[[str], bool]], object]
"""Brings those files of the stores that it is asked for, by their paths below the stores' folder."""


def embed(
    model: ModelConfig,
    prompts: PromptsConfig,
    images: ImagesConfig | None,
    weights: Weights,
    output_dir: Path,
    fetch_files: Fetch = lambda _: None,
) -> PromptSets:
    """Encode all that a run needs encoded: prompts, and images with their captions, into stores under `output_dir`.

    `fetch_files` brings there what others have encoded: of texts no more than this run has, of images all.
    """
    store = encoder_hash(model, prompts, weights.model)
    if images is None:
        _fetch_encoded([prompt for part in read_both(prompts) for prompt in part], output_dir, store, fetch_files)
        return embed_prompts(model, prompts, weights, output_dir)
    source = fetch(images.source, "images").path if is_remote(images.source) else resolve(images.source, "images")
    multiple = latent_space_skeleton(model, weights.model.path).multiple
    pictures = read_images(model, prompts, images, source, multiple)
    texts = read_texts(prompts, images, pictures)
    _fetch_encoded(texts.trained_on + texts.held_out, output_dir, store, fetch_files)
    latents = f"latents-{vae_hash(model, weights.model)}/"
    fetch_files(lambda name: name.startswith(latents))
    sets = [(images.source, texts.captions), (prompts.held_out, texts.held_out), (prompts.train, texts.train)]
    captions, held_out, *train = embed_texts(
        model, prompts, weights.model, output_dir, [part for part in sets if part[1]]
    )
    encoded = encode_images(model, weights.model, pictures, images.source, captions, output_dir, prompts.num_processes)
    return PromptSets(train=train[0] if train else captions, held_out=held_out, images=encoded)


def _fetch_encoded(prompts: Iterable[Prompt], output_dir: Path, store: str, fetch_files: Fetch) -> None:
    """Bring the shards of an encoder's store that hold a prompt, as its lists of prompt sets say."""
    fetch_files(lambda name: name.startswith(f"{store}/set-"))
    texts, wanted = {prompt.text for prompt in prompts}, set[str]()
    for path in (output_dir / store).glob("set-*.json"):
        index = json.loads(path.read_text(encoding="utf-8"))
        of_texts = zip(index["texts"], index["shard_of"], strict=True)
        wanted |= {f"{store}/{index['shards'][shard]}" for text, shard in of_texts if text in texts}
    fetch_files(wanted.__contains__)


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


def texts_at_hand(config: RunConfig) -> Texts:
    """All texts that a run encodes, but for captions that have still to be fetched."""
    return read_texts(config.prompts, config.images, pictures_at_hand(config))
