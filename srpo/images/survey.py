"""What can be known of a run's images before anything is encoded."""

from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import PurePosixPath

from srpo.config import PromptsConfig, RolloutConfig, RunConfig
from srpo.errors import ConfigError
from srpo.hub import fetched, is_remote, missing, resolve, survey
from srpo.images import read_images
from srpo.images.buckets import Bucket
from srpo.images.files import SETTING, SUFFIXES, Picture
from srpo.models import LatentSpace, latent_space_skeleton

BYTES_PER_VALUE = 4
PUBLISHED_MULTIPLE = 16
"""Of FLUX's and Qwen-Image's VAEs with their patches."""
PUBLISHED_VALUES = 16 / 64
"""Latent values per pixel of both: 16 channels for 8x8 pixels."""


def pictures_at_hand(config: RunConfig) -> list[Picture]:
    """The images of a run, each checked; none where it has none, or where they have still to be fetched."""
    if config.images is None or (is_remote(config.images.source) and fetched(config.images.source) is None):
        return []
    space = _latent_space(config)
    source, multiple = resolve(config.images.source, "images"), space.multiple if space else PUBLISHED_MULTIPLE
    return read_images(config.model, config.prompts, config.images, source, multiple)


def describe_images(config: RunConfig) -> str:
    """How many images there are, of which shapes, and what their latents take; ConfigError names all that are bad."""
    assert config.images
    source, pictures = config.images.source, pictures_at_hand(config)
    updates = f"updates 1 to {config.num_offline_updates}"
    size = f"latents of {latent_bytes(config) / 2**20:.3g} MiB for {updates}"
    if not pictures:
        left = missing(survey(source, "images")) / 2**20
        return f"{source}: {_remote_images(source)} images, {left:.3g} MiB to fetch; at most {size}{_unread(config)}"
    counts = Counter(picture.bucket for picture in pictures)
    shapes = ", ".join(f"{width}x{height}: {count}" for (height, width), count in sorted(counts.items()))
    transparent = sum(picture.transparent for picture in pictures)
    white = f"; {transparent} are transparent and laid on white" if transparent else ""
    repeated = _repeated(counts, config.train.batch_size)
    return f"{len(pictures)} images ({shapes}){white}; {size}{repeated}{_unread(config)}"


def latent_bytes(config: RunConfig) -> int:
    """Bytes of all latents; a bound for what has still to be fetched."""
    if config.images is None:
        return 0
    area, space, pictures = config.model.height * config.model.width, _latent_space(config), pictures_at_hand(config)
    if not pictures:
        return round(BYTES_PER_VALUE * PUBLISHED_VALUES * area * _remote_images(config.images.source))
    values = (prod(space.latent_shape(*p.bucket)) if space else PUBLISHED_VALUES * prod(p.bucket) for p in pictures)
    return round(BYTES_PER_VALUE * sum(values))


def _latent_space(config: RunConfig) -> LatentSpace | None:
    """The model's, from its config file; None while the model has still to be fetched."""
    source = config.model.source
    if is_remote(source) and fetched(source) is None:
        return None
    return latent_space_skeleton(config.model, resolve(source, "model"))


def _remote_images(source: str) -> int:
    """How many images a remote source holds; ConfigError names those without a caption."""
    paths = [PurePosixPath(file.path) for file in survey(source, "images").files]
    texts = set(paths)
    images = [path for path in paths if path.suffix.lower() in SUFFIXES]
    if bare := [str(path) for path in images if path.with_suffix(".txt") not in texts]:
        raise ConfigError(f"{SETTING}: {len(bare)} images in {source} have no caption beside them: {', '.join(bare)}")
    if not images:
        raise ConfigError(f"{SETTING}: {source} holds no image")
    return len(images)


def _repeated(counts: Mapping[Bucket, int], batch_size: int) -> str:
    """Says where a micro-batch shows an image twice."""
    few = [f"{width}x{height}" for (height, width), count in sorted(counts.items()) if count < batch_size]
    return f"; fewer than train.batch_size in {', '.join(few)}, so a micro-batch repeats some" if few else ""


def _unread(config: RunConfig) -> str:
    """Says which changed settings have no effect because nothing is rolled out."""
    if config.num_offline_updates < config.train.num_updates:
        return ""
    unread = [f"rollout.{name}" for name, value in config.rollout if value != getattr(RolloutConfig(), name)]
    unread += ["prompts.train"] if config.prompts.train != PromptsConfig().train else []
    return f"; {', '.join(unread)} without effect, because nothing is rolled out" if unread else ""
