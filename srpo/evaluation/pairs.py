"""Metrics of an image beside others of the same design: how far from the first model's, how unlike its siblings.

    drift      = RMSE(image, the reference model's image of the same prompt and noise)
    diversity  = mean over the prompt's other images of 1 - cos(features, features of the other)

RMSE is over pixels in [0, 1], of thumbnails of at most 128 pixels: what is seen at a glance, not single pixels. The
features are those of a judge's image tower (`evaluation.diversity_by`); over a prompt the mean is over its pairs. A
model that forgets what its base could draw is far from it; one that collapses draws one picture per prompt.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from srpo.evaluation.bootstrap import Array
from srpo.evaluation.images import Cell, Gallery

DRIFT, DIVERSITY = "drift", "diversity"
SIDE = 128  # pixels of the longer side


def pair_metrics(seeds_per_prompt: int) -> list[str]:
    """Their names; a single image per prompt has no siblings."""
    return [DRIFT, DIVERSITY] if seeds_per_prompt > 1 else [DRIFT]


def measure_drift(galleries: Mapping[str, Gallery], reference: str, design: Sequence[Cell]) -> dict[str, Array]:
    """Label -> (images,) in the design's order; only the images of one prompt are in memory at a time."""
    parts: dict[str, list[Array]] = {label: [] for label in galleries}
    for _, group in groupby(design, key=lambda cell: cell.prompt_index):
        cells = list(group)
        images = {label: load_images([gallery.find(cell) for cell in cells]) for label, gallery in galleries.items()}
        for label, mine in images.items():
            parts[label].append(rmse(mine, images[reference]))
    return {label: np.concatenate(of_model) for label, of_model in parts.items()}


def load_images(paths: Sequence[Path]) -> Array:
    """(images, height, width, 3) in [0, 1], at most `SIDE` high and wide."""
    return np.stack([_load(path) for path in paths])


def _load(path: Path) -> Array:
    with Image.open(path) as picture:
        picture.draft("RGB", (SIDE, SIDE))  # a JPEG is decoded at no more than it takes
        picture.thumbnail((SIDE, SIDE))
        return np.asarray(picture.convert("RGB"), dtype=np.float64) / 255


def rmse(images: Array, others: Array) -> Array:
    """Of each image and its partner (..., height, width, 3) -> (...)."""
    return np.sqrt(((images - others) ** 2).mean((-3, -2, -1)))


def diversity(features: Array) -> Array:
    """Mean distance (images,) of each image of a prompt from the others, by unit features (images, width).

    NaN for one whose features are not finite; the others are compared without it.
    """
    finite = np.isfinite(features).all(-1)
    known = features[finite]
    found = np.full(len(features), np.nan)
    if len(known) > 1:
        sums = [((known - one) ** 2).sum() / 2 for one in known]  # 1 - cos of unit vectors, exactly 0 for equal ones
        found[finite] = np.array(sums) / (len(known) - 1)
    return found
