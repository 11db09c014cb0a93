"""Images and scores of every contender, spread out over the devices, batch by batch.

Embeddings are read from disk and images go there as thumbnails, so that memory holds those of one batch; scores and
image features it holds of all, for about 9 kB an image. The batches are cut from the design before they are shared out,
so that the spread changes nothing.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from srpo.artifacts import Weights
from srpo.config import RunConfig
from srpo.criteria import load_criteria
from srpo.devices import check_device, count_processes
from srpo.errors import memory_needed
from srpo.evaluation.bootstrap import Array
from srpo.evaluation.contender import Contender, score_key
from srpo.evaluation.images import Cell, Gallery, ReportProgress, draw
from srpo.evaluation.journal import ImageScores, ScoreJournal
from srpo.evaluation.pairs import DIVERSITY, DRIFT, diversity, measure_drift
from srpo.evaluation.provenance import device_name
from srpo.evaluation.scores import Scorer, load_scores
from srpo.models import load_model
from srpo.report.schema import ImageSet
from srpo.shards import StoredRows
from srpo.workers import share_out

Batch = Sequence[Cell]


@dataclass(frozen=True)
class Work:
    """What draws and scores the images of one contender; small enough to be handed to another process."""

    contender: Contender
    config: RunConfig
    weights: Weights
    embeddings: StoredRows
    gallery: Gallery


@dataclass(frozen=True)
class Measured:
    """All that was found, in the design's order."""

    design: list[Cell]
    galleries: dict[str, Gallery]
    """Label -> thumbnails."""
    scores: dict[str, dict[str, Array]]
    """Label -> metric -> (images,)."""

    @property
    def categories(self) -> list[str]:
        """Of every prompt, in the design's order."""
        return list({cell.prompt_index: cell.category for cell in self.design}.values())

    def by_prompt(self, label: str) -> dict[str, Array]:
        """Metric -> (prompts, seeds)."""
        count = len(self.categories)
        return {name: values.reshape(count, -1) for name, values in self.scores[label].items()}

    def image_sets(self) -> list[ImageSet]:
        """One record per prompt and seed."""
        return [
            ImageSet(
                prompt_index=cell.prompt_index,
                prompt=cell.prompt,
                category=cell.category,
                seed=cell.seed,
                scores={label: _row(columns, index) for label, columns in self.scores.items()},
            )
            for index, cell in enumerate(self.design)
        ]


def _row(columns: Mapping[str, Array], index: int) -> dict[str, float]:
    return {name: float(values[index]) for name, values in columns.items()}


def draw_and_score(
    contenders: Sequence[Contender],
    config: RunConfig,
    weights: Weights,
    embeddings: Mapping[str, StoredRows],
    design: list[Cell],
    journal: ScoreJournal,
    progress: ReportProgress | None = None,
) -> Measured:
    """Draw and score the design with every contender, one after the other; what the journal holds is taken from it.

    `embeddings`: label -> those of the file's prompts, as the contender's encoders make them. The first contender is
    the one that drift is measured from.
    """
    check_device()
    galleries, scores = {}, {}
    for contender in contenders:
        key = contender.image_key(config, device_name())
        galleries[contender.label] = gallery = journal.gallery(key)
        work = Work(contender, config, weights, embeddings[contender.label], gallery)
        with memory_needed("set evaluation.batch_size lower, or model.weights to fewer bits"):
            rows = _score(work, key, design, journal, progress)
        gc.collect()  # layers in int8 know themselves: the next model would come beside this one
        torch.cuda.empty_cache()
        scores[contender.label] = _columns(rows, config.evaluation.seeds_per_prompt)
    drift = measure_drift(galleries, contenders[0].label, design)
    return Measured(design, galleries, {label: found | {DRIFT: drift[label]} for label, found in scores.items()})


def _columns(rows: Sequence[ImageScores], seeds_per_prompt: int) -> dict[str, Array]:
    """Metric -> (images,), with what tells the images of a prompt apart if there are several."""
    found = {name: np.array([row.metrics[name] for row in rows]) for name in rows[0].metrics}
    if seeds_per_prompt == 1:
        return found
    features = [np.frombuffer(row.features, np.float16) for row in rows]
    prompts = [features[start : start + seeds_per_prompt] for start in range(0, len(rows), seeds_per_prompt)]
    return found | {DIVERSITY: np.concatenate([diversity(np.stack(images).astype(float)) for images in prompts])}


def _score(
    work: Work, image_key: str, design: list[Cell], journal: ScoreJournal, progress: ReportProgress | None
) -> list[ImageScores]:
    """Scores in the design's order."""
    judged_by = score_key(work.config, work.weights)
    known = journal.find(image_key, judged_by, design)
    size = work.config.evaluation.batch_size
    batches = [design[start : start + size] for start in range(0, len(design), size)]
    missing = [left for batch in batches if (left := [cell for cell in batch if cell not in known])]
    count = min(count_processes(work.config.evaluation.num_processes), len(missing))
    shares = [missing[rank::count] for rank in range(count)]
    for scores in share_out(partial(_measure, work), shares, max(1, torch.get_num_threads() // max(1, count))):
        journal.add(image_key, judged_by, scores)
        known |= scores
        if progress:
            progress(f"{work.contender.label} images", len(known), len(design))
    journal.complete(image_key)
    return [known[cell] for cell in design]


def _measure(work: Work, batches: Sequence[Batch], device: torch.device) -> Iterator[dict[Cell, ImageScores]]:
    """The batches' scores as they are made."""
    worker = _Worker(work, device)
    return (worker(batch) for batch in batches)


class _Worker:
    """A loaded contender and what scores its images."""

    def __init__(self, work: Work, device: torch.device) -> None:
        check_device()  # each process has its own torch
        contender, config = work.contender, work.config
        transformer = contender.transformer.path if contender.transformer else None
        self.work, self.device = work, device
        self.size = contender.model.height, contender.model.width
        self.model = load_model(contender.model, contender.base.path, transformer, device)
        settings = config.evaluation
        criteria = load_criteria(config, work.weights, device)
        scores = load_scores(settings.scores, work.weights, device)
        by = settings.diversity_by
        self.judge = scores[by].reward if by in scores else criteria[0].reward
        self.scorer = Scorer(criteria, settings.world, scores, settings.grid_periods)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> dict[Cell, ImageScores]:
        """Draw, score, keep the thumbnails."""
        embeddings = self.work.embeddings.select([cell.prompt_index for cell in batch], self.device)
        images = draw(self.model, self.size, self.work.config.evaluation, embeddings, batch, self.device)
        scores = self.scorer(images, [cell.prompt for cell in batch])
        columns = {name: values.double().tolist() for name, values in scores.items()}
        features = self.judge.features(images).half().cpu().numpy()
        for cell, image in zip(batch, images, strict=True):
            self.work.gallery.add(cell, image)
        return {
            cell: ImageScores({name: values[i] for name, values in columns.items()}, features[i].tobytes())
            for i, cell in enumerate(batch)
        }
