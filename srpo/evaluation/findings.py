"""From what was measured to the report and its files, the same for a run and for any number of models."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from srpo.artifacts import Weights
from srpo.config import RunConfig, StorageConfig
from srpo.durable import mirror_of
from srpo.evaluation.champion import Champion
from srpo.evaluation.contender import Contender
from srpo.evaluation.gate import Evidence, Judgement
from srpo.evaluation.journal import ScoreJournal
from srpo.evaluation.measure import Measured
from srpo.evaluation.published import find_published
from srpo.evaluation.shared_journal import SharedJournal
from srpo.evaluation.statistics import compare, make_contrast, measure_levels
from srpo.report.page import REPORT_JSON, write_report
from srpo.report.schema import Contrast, Curves, Provenance, Report, Subject
from srpo.report.thumbnails import choose, keep_pictures


def contrast(config: RunConfig, measured: Measured, reference: str, candidate: str) -> Contrast:
    """One contender against another, over all prompts and by category."""
    scores = {label: measured.by_prompt(label) for label in (reference, candidate)}
    return make_contrast(scores, measured.categories, config.evaluation, config.seed)


def gather(config: RunConfig, measured: Measured, shown: Contrast) -> Evidence:
    """What the gate judges a contrast by."""
    settings, sides = config.evaluation, (measured.by_prompt(shown.reference), measured.by_prompt(shown.candidate))
    strict = compare(*sides, settings, config.seed, settings.gate_confidence)
    return Evidence(shown.reference, shown.metrics, strict)


def make_report(
    config: RunConfig,
    measured: Measured,
    contenders: Sequence[Contender],
    contrasts: list[Contrast],
    judgement: Judgement,
    provenance: Provenance,
    seconds: float,
    champion: Champion | None = None,
    curves: Curves | None = None,
    trained_metrics: Sequence[str] = (),
) -> Report:
    """Everything that was found; a judgement whose verdict is None comes from no gate.

    `trained_metrics`: those of the rewards that the judged model was trained with, where that is known.
    """
    settings = config.evaluation
    return Report(
        name=config.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=seconds,
        verdict=judgement.verdict,
        reason=judgement.reason,
        damage=judgement.damage,
        wanted=settings.wanted,
        confidence=settings.confidence,
        gate_confidence=settings.gate_confidence if judgement.verdict else None,
        trained_metrics=list(trained_metrics),
        champion=champion.compared if champion else None,
        undrawn=champion.undrawn if champion else None,
        num_prompts=len(measured.categories),
        seeds_per_prompt=settings.seeds_per_prompt,
        models=[_subject(config, measured, contender) for contender in contenders],
        contrasts=contrasts,
        checks=judgement.checks,
        curves=curves or Curves(),
        images=measured.image_sets(),
        provenance=provenance,
        published=find_published(settings),
    )


def trained_by(weights: Weights, hashes: Mapping[str, str]) -> list[str]:
    """Metrics whose judge, by content, is one of the rewards among the `hashes` of what a model was made from."""
    trained = {sha256 for name, sha256 in hashes.items() if name.startswith("reward")}
    found = [name for name, files in weights.snapshots.items() if files.sha256 in trained]
    pairs = {"reward": ("reward", "relative")}
    pairs |= {f"reward_{name}": (f"reward/{name}", f"relative/{name}") for name in weights.rewards}
    pairs |= {f"score_{name}": (name, f"relative/{name}") for name in weights.scores}
    return [metric for name in found for metric in pairs.get(name, ())]


def _subject(config: RunConfig, measured: Measured, contender: Contender) -> Subject:
    scores = measured.by_prompt(contender.label)
    return contender.subject(measure_levels(scores, config.evaluation, config.seed))


def publish(report: Report, measured: Measured, num_images: int, output_dir: Path) -> tuple[Report, Path, Path]:
    """Write `report.json`, `report.html` and their pictures; the report as it was written, and the files' paths."""

    def find(index: int, label: str) -> Path:
        return measured.galleries[label].find(measured.design[index])

    report = keep_pictures(report, find, output_dir, choose(report, num_images))
    return report, output_dir / REPORT_JSON, write_report(report, output_dir)


@contextmanager
def journal_in(folder: Path | None, storage: StorageConfig) -> Iterator[ScoreJournal]:
    """The journal of a folder, shared with other nodes if there is a durable copy; a passing one without a folder."""
    if folder is not None:
        yield SharedJournal(folder, mirror_of(storage)) if storage.remote else ScoreJournal(folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield ScoreJournal(Path(temporary))
