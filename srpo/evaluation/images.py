"""The design of an evaluation (prompts x seeds) and its images, drawn batch by batch and kept as thumbnails on disk.

The noise of an image depends on the run's seed, its prompt's place and its number alone: all models start from the same
noise, and neither the batch size nor the number of seeds changes a picture.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from srpo.config import EvaluationConfig
from srpo.files import atomic_file, has_content
from srpo.generate import to_picture
from srpo.models import Embeddings, TextToImage
from srpo.prompts import Prompt
from srpo.rollout import sample, seeded_noise, tf32

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
    """Place of the prompt in its file."""
    prompt: str
    category: str
    number: int
    """Which of the prompt's images, from 0."""
    seed: int


def make_design(prompts: Sequence[Prompt], places: Sequence[int], seeds_per_prompt: int, seed: int) -> list[Cell]:
    """All images of the prompts at these places, prompt after prompt."""
    return [
        Cell(place, *prompts[place], number, image_seed(seed, place, number))
        for place in places
        for number in range(seeds_per_prompt)
    ]


def image_seed(seed: int, prompt_index: int, number: int, purpose: int = EVALUATION) -> int:
    """32 well-mixed bits: noise of the training, of another purpose or of another run is met again only by chance."""
    return int(np.random.SeedSequence([seed, prompt_index, number, purpose]).generate_state(1)[0])


@dataclass(frozen=True)
class Gallery:
    """Thumbnails of one model's images on disk."""

    folder: Path

    def add(self, cell: Cell, image: Tensor) -> None:
        """Keep an image (3, height, width)."""
        picture = to_picture(image)
        small = max(picture.size) < PNG_BELOW
        path = self._path(cell, "png" if small else "jpg")
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        with atomic_file(path, flush=False) as staging:  # another evaluation may draw the same
            picture.save(staging, "PNG" if small else "JPEG", quality=JPEG_QUALITY)

    def use(self) -> None:
        """Note that an evaluation looks here: `gc` removes what none has used for long."""
        if self.folder.exists():
            os.utime(self.folder)

    def has(self, cell: Cell) -> bool:
        """Whether the image is here, and not the empty file that a machine without power may leave."""
        return has_content(self.find(cell))

    def find(self, cell: Cell) -> Path:
        """The file of an image."""
        small = self._path(cell, "png")
        return small if small.exists() else self._path(cell, "jpg")

    def _path(self, cell: Cell, suffix: str) -> Path:
        name = hashlib.sha256(f"{cell.seed} {cell.prompt}".encode()).hexdigest()
        return self.folder / f"{name[:32]}.{suffix}"


@torch.no_grad()
def draw(
    model: TextToImage,
    size: tuple[int, int],
    settings: EvaluationConfig,
    embeddings: Embeddings,
    cells: Sequence[Cell],
    device: torch.device,
) -> Tensor:
    """One image per cell (cells, 3, height, width) in [0, 1], as `srpo.generate` draws them.

    `size`: height, width; `embeddings`: of each cell's prompt, on the device.
    """
    noise = seeded_noise(model.latent_shape(*size), [cell.seed for cell in cells]).to(device)
    sigmas = model.sampling_sigmas(settings.num_steps, *size)
    with tf32():
        return model.decode(sample(model, embeddings, noise, sigmas, settings.guidance))
