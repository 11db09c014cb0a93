"""Which texts a run needs encoded, and encoding them, with the images where it has some."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from srpo.artifacts import PromptSets, Weights
from srpo.config import ImagesConfig, ModelConfig, PromptsConfig, RunConfig
from srpo.hub import fetch, is_remote, resolve
from srpo.images import encode_images, read_images
from srpo.images.files import Picture
from srpo.images.survey import pictures_at_hand
from srpo.models import latent_space_skeleton
from srpo.prompts import Prompt, embed_prompts, embed_texts, read_held_out, read_prompts


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
    encoded = encode_images(model, weights.model, pictures, images.source, captions, output_dir, prompts.num_processes)
    return PromptSets(train=train[0] if train else captions, held_out=held_out, images=encoded)


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
