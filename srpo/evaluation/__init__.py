"""Base against candidate: same held-out prompts and noise, many metrics with their uncertainty, a verdict, a report.

images -> scores -> paired statistics -> gate -> report. The trained reward alone decides nothing.
"""

import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch

from srpo.artifacts import Evaluated, PromptSets, Snapshot, Trained, Weights
from srpo.checkpoint import write_atomic
from srpo.config import RunConfig
from srpo.criteria import load_criteria
from srpo.errors import ConfigError
from srpo.evaluation.gate import check_metrics, judge
from srpo.evaluation.images import Gallery, ReportProgress, draw, make_design, score_images
from srpo.evaluation.progress import terminal_progress
from srpo.evaluation.provenance import trace
from srpo.evaluation.report import render
from srpo.evaluation.schema import BASE, CANDIDATE, Contrast, Curves, ImageSet, Report, Subject
from srpo.evaluation.scores import Scorer, load_scores
from srpo.evaluation.statistics import MIN_PROMPTS, Array, compare
from srpo.models import load_model
from srpo.prompts import load_prompt_set
from srpo.record import HELD_OUT, METRICS, read_journal
from srpo.tracking import Tracker

__all__ = ["check_metrics", "evaluate", "terminal_progress"]

REPORT_JSON, REPORT_HTML = "report.json", "report.html"


def evaluate(
    config: RunConfig,
    weights: Weights,
    prompts: PromptSets,
    trained: Trained,
    output_dir: Path,
    progress: ReportProgress | None = None,
) -> Evaluated:
    """Compare the trained model with its base; writes `report.json` and `report.html` into `output_dir`.

    ConfigError if the config names a metric that is not measured, or there are too few prompts to compare.
    """
    started = time.perf_counter()
    check_metrics(config)
    run = _Evaluation(config, weights, prompts, progress)
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir) as folder:
        transformers = {BASE: None, CANDIDATE: trained.transformer.path}
        galleries = {label: Gallery(Path(folder) / label) for label in transformers}
        scores = {
            label: run.measure(transformer, galleries[label], f"{label} images")
            for label, transformer in transformers.items()
        }
        before, after = (run.by_prompt(scores[label]) for label in (BASE, CANDIDATE))
        metrics = compare(before, after, config.evaluation, config.seed)
        judgement = judge(config, metrics)
        report = Report(
            name=config.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=time.perf_counter() - started,
            verdict=judgement.verdict,
            reason=judgement.reason,
            damage=judgement.damage,
            wanted=config.evaluation.wanted,
            confidence=config.evaluation.confidence,
            num_prompts=len(run.prompts),
            seeds_per_prompt=config.evaluation.seeds_per_prompt,
            models=[
                _subject(BASE, weights.model.part("transformer")),
                _subject(CANDIDATE, trained.transformer),
            ],
            contrasts=[Contrast(reference=BASE, candidate=CANDIDATE, metrics=metrics)],
            checks=judgement.checks,
            curves=read_curves(trained),
            images=run.image_sets(scores),
            provenance=trace(config, weights, prompts, trained, run.device),
        )
        html = render(report, run.design, galleries, config.evaluation.num_report_images)
    return _publish(report, html, output_dir)


class _Evaluation:
    """The design, and what draws and scores it."""

    def __init__(
        self, config: RunConfig, weights: Weights, prompts: PromptSets, progress: ReportProgress | None
    ) -> None:
        self.config = config
        self.weights = weights
        self.progress = progress
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        texts, self.embeddings = load_prompt_set(prompts.held_out)
        self.prompts = texts[: config.evaluation.num_prompts]
        if len(self.prompts) < MIN_PROMPTS:
            raise ConfigError(
                f"{len(self.prompts)} held-out prompt cannot show how sure a difference is; give at least {MIN_PROMPTS}"
            )
        self.design = make_design(len(self.prompts), config.evaluation.seeds_per_prompt, config.seed)
        first, *added = load_criteria(config, weights, self.device)
        scores = load_scores(config.evaluation.scores, weights, self.device)
        settings = config.evaluation
        self.scorer = Scorer(first.reward, first.preference, settings.world, scores, settings.grid_periods, added)

    def measure(self, transformer: Path | None, gallery: Gallery, activity: str) -> dict[str, Array]:
        """Draw and score all images of one model: metric -> (images,); only one model is in memory at a time."""
        model = load_model(self.config.model, self.weights.model.path, transformer)
        model.to(self.device)
        batches = draw(model, self.config, self.embeddings, self.design, self.device)
        advance = partial(self._advance, activity)
        return score_images(batches, self.scorer, self.prompts, gallery, advance)

    def _advance(self, activity: str, done: int) -> None:
        if self.progress:
            self.progress(activity, done, len(self.design))

    def by_prompt(self, scores: Mapping[str, Array]) -> dict[str, Array]:
        """Metric -> (prompts, seeds)."""
        return {name: values.reshape(len(self.prompts), -1) for name, values in scores.items()}

    def image_sets(self, scores: Mapping[str, Mapping[str, Array]]) -> list[ImageSet]:
        """One record per prompt and seed, in the design's order."""
        return [
            ImageSet(
                prompt_index=cell.prompt_index,
                prompt=self.prompts[cell.prompt_index],
                seed=cell.seed,
                scores={label: _row(columns, index) for label, columns in scores.items()},
            )
            for index, cell in enumerate(self.design)
        ]


def _subject(label: str, transformer: Snapshot) -> Subject:
    return Subject(label=label, reference=transformer.source, transformer_sha256=transformer.sha256)


def _row(scores: Mapping[str, Array], index: int) -> dict[str, float]:
    return {name: float(values[index]) for name, values in scores.items()}


def read_curves(trained: Trained) -> Curves:
    """What the training that made a model wrote down."""
    folder = Path(trained.output_dir)
    return Curves(
        updates=read_journal(folder / METRICS),
        held_out=read_journal(folder / HELD_OUT),
        best_update=trained.best_update,
        num_updates=trained.num_updates,
        seconds=trained.seconds,
        stopped=trained.stopped,
    )


def _publish(report: Report, html: str, output_dir: Path) -> Evaluated:
    """Write both files, log them and the numbers to MLflow."""
    json_path, html_path = output_dir / REPORT_JSON, output_dir / REPORT_HTML
    write_atomic(json_path, report.model_dump_json(indent=1))
    write_atomic(html_path, html)
    tracker = Tracker.from_environment()
    shown = ("reference", "candidate", "change", "lower", "upper")
    tracker.log_metrics(
        {f"evaluation/{name}/{part}": getattr(row, part) for name, row in report.metrics.items() for part in shown},
        report.curves.best_update,
    )
    for path in (json_path, html_path):
        tracker.log_artifact(path, "evaluation")
    return Evaluated(
        report_json=str(json_path),
        report_html=str(html_path),
        passed=report.passed,
        verdict=report.verdict,
        reason=report.reason,
    )
