"""The design of an evaluation (prompts x seeds) and its images, drawn and scored batch by batch.

The noise of an image depends on the run's seed, its prompt's place and its number alone: both models start from the
same noise, and neither the batch size nor the number of seeds changes a picture. Memory does not grow with the number
of images: scores are kept, pictures go to disk as thumbnails.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from srpo.config import RunConfig
from srpo.evaluation.scores import Scorer
from srpo.evaluation.statistics import Array
from srpo.generate import to_picture
from srpo.models import Embeddings, TextToImage
from srpo.prompts import select
from srpo.rollout import sample, seeded_noise
from srpo.shards import StoredRows

THUMBNAIL = 512  # pixels of the longer side
PNG_BELOW = 128  # pixels; small pictures are kept exactly, large ones as JPEG
JPEG_QUALITY = 88

EVALUATION, MONITOR = 0, 1
"""What held-out images are drawn for: the verdict, or the choice of the best checkpoint."""

ReportProgress = Callable[[str, int, int], None]
"""(what is being done, how many are done, how many there are)."""


@dataclass(frozen=True)
class Cell:
    """One image of the design."""

    prompt_index: int
    number: int
    """Which of the prompt's images, from 0."""
    seed: int


def make_design(num_prompts: int, seeds_per_prompt: int, seed: int) -> list[Cell]:
    """All images, prompt after prompt."""
    return [
        Cell(prompt, number, image_seed(seed, prompt, number))
        for prompt in range(num_prompts)
        for number in range(seeds_per_prompt)
    ]


def image_seed(seed: int, prompt_index: int, number: int, purpose: int = EVALUATION) -> int:
    """32 well-mixed bits: noise of the training, of another purpose or of another run is met again only by chance."""
    return int(np.random.SeedSequence([seed, prompt_index, number, purpose]).generate_state(1)[0])


class Gallery:
    """Thumbnails of one model's images on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)

    def add(self, cell: Cell, image: Tensor) -> None:
        """Keep an image (3, height, width)."""
        picture = to_picture(image)
        if max(picture.size) < PNG_BELOW:
            picture.save(self._path(cell, "png"))
        else:
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            picture.save(self._path(cell, "jpg"), quality=JPEG_QUALITY)

    def find(self, cell: Cell) -> Path:
        """The file of an image."""
        return next(path for path in (self._path(cell, "png"), self._path(cell, "jpg")) if path.exists())

    def _path(self, cell: Cell, suffix: str) -> Path:
        return self.folder / f"{cell.prompt_index}-{cell.number}.{suffix}"


def draw(
    model: TextToImage,
    config: RunConfig,
    embeddings: Embeddings | StoredRows,
    design: list[Cell],
    device: torch.device,
) -> Iterator[tuple[list[Cell], Tensor]]:
    """Batches of the design with their images (batch, 3, height, width) in [0, 1], in float32 like `srpo.generate`."""
    size = config.evaluation.batch_size
    for start in range(0, len(design), size):
        cells = design[start : start + size]
        chosen = select(embeddings, [cell.prompt_index for cell in cells])
        yield cells, _draw_batch(model, config, chosen, [cell.seed for cell in cells], device)


@torch.no_grad()
def _draw_batch(
    model: TextToImage, config: RunConfig, embeddings: Embeddings, seeds: list[int], device: torch.device
) -> Tensor:
    """One image (batch, 3, height, width) per prompt and seed."""
    settings, size = config.evaluation, (config.model.height, config.model.width)
    here = {name: tensor.to(device) for name, tensor in embeddings.items()}
    noise = seeded_noise(model.latent_shape(*size), seeds).to(device)
    sigmas = model.sampling_sigmas(settings.num_steps, *size)
    return model.decode(sample(model, here, noise, sigmas, settings.guidance))


def score_images(
    batches: Iterator[tuple[list[Cell], Tensor]],
    scorer: Scorer,
    prompts: list[str],
    gallery: Gallery,
    report_progress: Callable[[int], None],
) -> dict[str, Array]:
    """Score the images as they are made: metric -> one value per image, in the design's order."""
    parts: list[dict[str, Tensor]] = []
    done = 0
    for cells, images in batches:
        scores = scorer(images, [prompts[cell.prompt_index] for cell in cells])
        parts.append({name: values.double().cpu() for name, values in scores.items()})
        for cell, image in zip(cells, images, strict=True):
            gallery.add(cell, image)
        done += len(cells)
        report_progress(done)
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
