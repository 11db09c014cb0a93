"""The pictures that a report keeps: which ones, and small enough that the page stays small whatever was drawn.

They lie beside `report.json` in `images/`, so that the page can be made again from the folder, and other reports from
several folders. One picture is in memory at a time.
"""

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from srpo.files import atomic_folder
from srpo.report.schema import Kept, Report

IMAGES = "images"
NUM_WORST = NUM_BEST = 10
TOTAL_BYTES = 10_000_000  # of all pictures of a report; base64 makes 13.3 MB of them
MOST_BYTES = 60_000  # of one picture, however few there are
LONGEST = 512  # pixels of the longer side
LOSSLESS_BELOW = 128  # pixels; pictures of small models are looked at pixel by pixel
QUALITIES = (85, 70, 50)  # of WebP, tried in this order before the picture is made smaller

FindPicture = Callable[[int, str], Path]
"""(place in `report.images`, label of the model) -> file of the picture."""


def keep_pictures(report: Report, find: FindPicture, folder: Path, chosen: Mapping[int, Sequence[Kept]]) -> Report:
    """Write thumbnails of the chosen sets of pictures into `folder`/images; the report that says which and why."""
    images = [
        record.model_copy(update={"kept": tuple(chosen.get(index, ()))}) for index, record in enumerate(report.images)
    ]
    kept = report.model_copy(update={"images": images})
    budget = min(MOST_BYTES, TOTAL_BYTES // (max(1, len(chosen)) * len(report.models)))
    with atomic_folder(folder / IMAGES) as staging:
        for index in chosen:
            for model in report.models:
                with Image.open(find(index, model.label)) as picture:
                    path = picture_path(staging, kept, index, model.label)
                    path.write_bytes(encode(picture.convert("RGB"), LONGEST, budget))
    return kept


def picture_path(images: Path, report: Report, index: int, label: str) -> Path:
    """Where the thumbnail of one model lies in the folder `images`; labels are no file names, so it is numbered."""
    number = [model.label for model in report.models].index(label)
    return images / f"{index:05d}-{number}.webp"


def encode(picture: Image.Image, longest: int, max_bytes: int) -> bytes:
    """A picture as WebP without metadata, at most `longest` pixels long and `max_bytes` heavy; small ones lossless."""
    if max(picture.size) < LOSSLESS_BELOW and len(exact := _webp(picture, lossless=True)) <= max_bytes:
        return exact
    while True:
        smaller = picture.copy()
        smaller.thumbnail((longest, longest))
        for quality in QUALITIES:
            if len(content := _webp(smaller, quality=quality)) <= max_bytes or longest == 1:
                return content
        longest = max(1, min(longest, *picture.size) * 3 // 4)


def choose(report: Report, count: int) -> dict[int, list[Kept]]:
    """Places in `report.images` of the worst, the best and a fair sample, `count` at most, with why each is kept."""
    ranked = rank(report)
    num_worst = min(NUM_WORST, math.ceil(count / 2))
    num_best = min(NUM_BEST, (count - num_worst) // 3)
    groups: list[tuple[Kept, Iterable[int]]] = [
        ("worst", ranked[:num_worst]),
        ("best", ranked[::-1][:num_best]),
        ("sample", spaced(len(ranked), count - num_worst - num_best)),
    ]
    chosen: dict[int, list[Kept]] = {}
    for why, places in groups:
        for place in places:
            chosen.setdefault(place, []).append(why)
    return dict(sorted(chosen.items()))


def rank(report: Report) -> list[int]:
    """Places in `report.images`, the worst first."""
    names = ranking(report)
    return sorted(range(len(report.images)), key=lambda index: [gain(report, index, name) for name in names])


def ranking(report: Report) -> list[str]:
    """What makes a picture bad or good: the wanted metric, and before it those of 0 and 1 that the gate guards.

    A finer metric has no ties, and would leave nothing to those after it.
    """
    guarded = [check.metric for check in report.checks if check.limit == "min_change" and check.metric != report.wanted]
    names = [name for name in dict.fromkeys((*guarded, report.wanted)) if name in measured(report)]
    *before, last = names or measured(report)[:1]
    return [*(name for name in before if _is_binary(report, name)), last]


def measured(report: Report) -> list[str]:
    """Metrics that every image has."""
    return list(report.images[0].scores[report.models[0].label])


def _is_binary(report: Report, metric: str) -> bool:
    """Whether each image has it or lacks it."""
    return all(scores[metric] in (0, 1) for image in report.images for scores in image.scores.values())


def gain(report: Report, index: int, metric: str) -> float:
    """What the judged model scored over the first on one prompt and noise; the score itself if it is alone."""
    scores = report.images[index].scores
    first, *others = (scores[model.label][metric] for model in report.models[:2])
    return others[0] - first if others else first


def spaced(total: int, count: int) -> list[int]:
    """`count` places evenly over 0..total-1, each once."""
    return sorted(set(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()))


def _webp(picture: Image.Image, quality: int = 100, lossless: bool = False) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality, lossless=lossless, method=4)
    return buffer.getvalue()
